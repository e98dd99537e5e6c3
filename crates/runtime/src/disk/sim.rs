//! A disk in memory that fails the way disks do, the same way for the same seed.
//!
//! *Why it exists:* the production engine runs on it unchanged, in tests that crash it at every
//! operation.
//!
//! *Model:* a file has what its readers see and what would survive a power loss. Writes mark pages
//! of 4 KiB dirty; [`DiskFile::sync`] saves them. [`SimDisk::crash`] keeps an arbitrary subset of
//! the dirty pages, an arbitrary length between the saved and the seen one (bytes that were not
//! kept read as zeros), and an arbitrary subset of unsynced directory changes. A sync that fails
//! forgets which pages were dirty, as kernels do: a later sync of the same file succeeds without
//! saving them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    sync::{Arc, Mutex, MutexGuard},
};

use millstream_core::disk::{Disk, DiskFile};

const PAGE: usize = 4096;

/// How often each kind of fault has happened, so that a test can tell that it met one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Power losses.
    pub crashes: u64,
    /// Dirty pages that a crash forgot.
    pub pages_lost: u64,
    /// Appends of which a crash kept only a part of the length.
    pub appends_torn: u64,
    /// Directory changes that a crash undid.
    pub names_lost: u64,
    /// Appends that met a full disk.
    pub full: u64,
    /// Appends that failed for another reason.
    pub appends_failed: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Bits flipped.
    pub flips: u64,
}

/// A seeded disk in memory. Cloning shares it.
#[derive(Clone)]
pub struct SimDisk {
    sim: Arc<Mutex<Sim>>,
}

#[derive(Default)]
struct Sim {
    rng: u64,
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    names_saved: BTreeMap<String, u64>,
    names_pending: Vec<Rename>,
    next: u64,
    /// Raised by a crash: handles from before are dead.
    generation: u64,
    /// Changing operations so far.
    operations: u64,
    crash_at: Option<u64>,
    off: bool,
    capacity: Option<u64>,
    appends_to_fail: u32,
    syncs_to_fail: u32,
    faults: Faults,
}

#[derive(Default)]
struct File {
    seen: Vec<u8>,
    saved: Vec<u8>,
    dirty: BTreeSet<usize>,
}

/// One change of the directory tree: names that go, and names that come.
struct Rename {
    gone: Option<String>,
    come: Option<(String, u64)>,
}

impl SimDisk {
    /// An empty disk whose faults follow from `seed`.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk { sim: Arc::new(Mutex::new(Sim { rng: seed, ..Sim::default() })) }
    }

    /// Cuts the power and restores it: what was not synced is partly forgotten, and every open
    /// file is dead.
    pub fn crash(&self) {
        self.lock().crash();
    }

    /// Cuts the power during the `n`-th changing operation from now (1 is the next); everything
    /// fails from there on, until [`SimDisk::crash`].
    pub fn crash_at(&self, n: u64) {
        let mut sim = self.lock();
        sim.crash_at = sim.operations.checked_add(n);
    }

    /// Whether the power is off since [`SimDisk::crash_at`] came true.
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Sets how many bytes fit, or lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Makes the next `n` appends fail after an arbitrary part was written.
    pub fn fail_appends(&self, n: u32) {
        self.lock().appends_to_fail = n;
    }

    /// Makes the next `n` syncs fail.
    pub fn fail_syncs(&self, n: u32) {
        self.lock().syncs_to_fail = n;
    }

    /// Flips one bit of a file. Panics if there is no such byte.
    pub fn flip(&self, path: &str, byte: u64, bit: u8) {
        let mut sim = self.lock();
        sim.faults.flips += 1;
        let file = sim.file(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        file.seen[byte as usize] ^= 1 << bit;
        if let Some(b) = file.saved.get_mut(byte as usize) {
            *b ^= 1 << bit;
        }
    }

    /// Every file and its length.
    pub fn files(&self) -> Vec<(String, u64)> {
        let sim = self.lock();
        let len = |inode: &u64| sim.files.get(inode).map_or(0, |f| f.seen.len() as u64);
        sim.names.iter().map(|(name, inode)| (name.clone(), len(inode))).collect()
    }

    /// A copy as it would be found after a clean stop, with its own future.
    pub fn fork(&self, seed: u64) -> SimDisk {
        let sim = self.lock();
        let copy = |inode: u64| {
            let seen = sim.files.get(&inode).map(|f| f.seen.clone()).unwrap_or_default();
            File { saved: seen.clone(), seen, dirty: BTreeSet::new() }
        };
        let fork = Sim {
            rng: seed,
            files: sim.names.values().map(|i| (*i, copy(*i))).collect(),
            names: sim.names.clone(),
            names_saved: sim.names.clone(),
            next: sim.next,
            ..Sim::default()
        };
        SimDisk { sim: Arc::new(Mutex::new(fork)) }
    }

    /// What has gone wrong so far.
    pub fn faults(&self) -> Faults {
        self.lock().faults
    }

    fn lock(&self) -> MutexGuard<'_, Sim> {
        // A test that panicked under this lock has failed already.
        self.sim.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn handle(&self, inode: u64, generation: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode, generation })
    }
}

impl Sim {
    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn up_to(&mut self, max: usize) -> usize {
        (self.random() % (max as u64 + 1)) as usize
    }

    fn chance(&mut self) -> bool {
        self.random() & 1 == 1
    }

    fn on(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Counts a changing operation; true if the power fails during it.
    fn operation(&mut self) -> io::Result<bool> {
        self.on()?;
        self.operations += 1;
        self.off = self.crash_at == Some(self.operations);
        Ok(self.off)
    }

    fn file(&mut self, path: &str) -> io::Result<&mut File> {
        let inode = self.names.get(path).copied().ok_or(ErrorKind::NotFound)?;
        self.files.get_mut(&inode).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn rename(&mut self, change: Rename) -> io::Result<()> {
        let failing = self.operation()?;
        if failing && self.chance() {
            return self.on();
        }
        change.apply(&mut self.names);
        self.names_pending.push(change);
        self.on()
    }

    fn append(&mut self, inode: u64, parts: &[&[u8]]) -> io::Result<()> {
        let failing = self.operation()?;
        let used: u64 = self
            .names
            .values()
            .filter_map(|i| self.files.get(i))
            .map(|f| f.seen.len() as u64)
            .sum();
        let total = parts.iter().map(|p| p.len()).sum::<usize>();
        let room = self.capacity.map_or(total, |c| c.saturating_sub(used) as usize);
        let mut keep = total;
        let mut result = Ok(());
        if failing {
            keep = self.up_to(total.min(room));
            result = self.on();
        } else if self.appends_to_fail > 0 {
            self.appends_to_fail -= 1;
            self.faults.appends_failed += 1;
            keep = self.up_to(total.min(room));
            result = Err(io::Error::other("the write failed"));
        } else if room < total {
            self.faults.full += 1;
            keep = self.up_to(room);
            result = Err(ErrorKind::StorageFull.into());
        }
        let file = self.files.get_mut(&inode).ok_or(ErrorKind::NotFound)?;
        let start = file.seen.len();
        for part in parts {
            let n = part.len().min(keep - (file.seen.len() - start));
            file.seen.extend_from_slice(&part[..n]);
        }
        let end = file.seen.len();
        file.dirty.extend(start / PAGE..end.div_ceil(PAGE));
        result
    }

    fn sync(&mut self, inode: u64) -> io::Result<()> {
        let failing = self.operation()?;
        let fail = !failing && self.syncs_to_fail > 0;
        if fail {
            self.syncs_to_fail -= 1;
            self.faults.syncs_failed += 1;
        }
        let mut file = self.files.remove(&inode).ok_or(ErrorKind::NotFound)?;
        let pages = if failing { file.dirty.clone() } else { std::mem::take(&mut file.dirty) };
        let all = !fail && !failing;
        if all {
            file.saved.resize(file.seen.len(), 0);
        }
        for page in pages {
            if all || self.chance() {
                file.save(page);
                file.dirty.remove(&page);
            }
        }
        self.files.insert(inode, file);
        self.on()?;
        if fail { Err(io::Error::other("the sync failed")) } else { Ok(()) }
    }

    fn crash(&mut self) {
        self.faults.crashes += 1;
        for change in std::mem::take(&mut self.names_pending) {
            if self.chance() {
                change.apply(&mut self.names_saved);
            } else {
                self.faults.names_lost += 1;
            }
        }
        self.names = self.names_saved.clone();
        let mut files = std::mem::take(&mut self.files);
        files.retain(|inode, _| self.names.values().any(|i| i == inode));
        for file in files.values_mut() {
            self.crash_file(file);
        }
        self.files = files;
        self.generation += 1;
        (self.off, self.crash_at) = (false, None);
    }

    fn crash_file(&mut self, file: &mut File) {
        let (seen, saved) = (file.seen.len(), file.saved.len());
        let len = match seen.cmp(&saved) {
            std::cmp::Ordering::Greater if !file.dirty.is_empty() => {
                // The whole length is as likely as any tear, or lost pages would hide behind it.
                let len = if self.chance() { seen } else { saved + self.up_to(seen - saved) };
                self.faults.appends_torn += u64::from(len < seen);
                len
            }
            std::cmp::Ordering::Less if self.chance() => seen,
            _ => saved,
        };
        for page in std::mem::take(&mut file.dirty) {
            if self.chance() {
                file.save(page);
            } else {
                self.faults.pages_lost += 1;
            }
        }
        file.saved.resize(len, 0);
        file.seen = file.saved.clone();
    }
}

impl File {
    fn save(&mut self, page: usize) {
        let start = page * PAGE;
        let end = (start + PAGE).min(self.seen.len());
        if start >= end {
            return;
        }
        if self.saved.len() < end {
            self.saved.resize(end, 0);
        }
        self.saved[start..end].copy_from_slice(&self.seen[start..end]);
    }
}

impl Rename {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((name, inode)) = &self.come {
            names.insert(name.clone(), *inode);
        }
    }

    fn touches(&self, dir: &str) -> bool {
        let inside = |path: &str| path.rsplit_once('/').map_or("", |(d, _)| d) == dir;
        self.gone.as_deref().is_some_and(inside)
            || self.come.as_ref().is_some_and(|(n, _)| inside(n))
    }
}

impl Disk for SimDisk {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let sim = self.lock();
        sim.on()?;
        let prefix = format!("{dir}/");
        let inside = |name: &String| {
            name.strip_prefix(&prefix).filter(|n| !n.contains('/')).map(String::from)
        };
        Ok(sim.names.keys().filter_map(inside).collect())
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut sim = self.lock();
        sim.next += 1;
        let inode = sim.next;
        sim.files.insert(inode, File::default());
        sim.rename(Rename { gone: None, come: Some((path.into(), inode)) })?;
        Ok(self.handle(inode, sim.generation))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let sim = self.lock();
        sim.on()?;
        let inode = sim.names.get(path).copied().ok_or(ErrorKind::NotFound)?;
        Ok(self.handle(inode, sim.generation))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut sim = self.lock();
        let inode = sim.names.get(from).copied().ok_or(ErrorKind::NotFound)?;
        sim.rename(Rename { gone: Some(from.into()), come: Some((to.into(), inode)) })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut sim = self.lock();
        if !sim.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        sim.rename(Rename { gone: Some(path.into()), come: None })
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut sim = self.lock();
        let failing = sim.operation()?;
        if failing && sim.chance() {
            return sim.on();
        }
        let pending = std::mem::take(&mut sim.names_pending);
        let (now, later): (Vec<_>, Vec<_>) = pending.into_iter().partition(|c| c.touches(dir));
        now.iter().for_each(|c| c.apply(&mut sim.names_saved));
        sim.names_pending = later;
        sim.on()
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    generation: u64,
}

impl SimFile {
    fn sim(&self) -> io::Result<MutexGuard<'_, Sim>> {
        let sim = self.disk.lock();
        sim.on()?;
        if sim.generation != self.generation {
            return Err(io::Error::other("the file was open when the power failed"));
        }
        Ok(sim)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let sim = self.sim()?;
        Ok(sim.files.get(&self.inode).map_or(0, |f| f.seen.len() as u64))
    }

    fn append(&self, parts: &[&[u8]]) -> io::Result<()> {
        self.sim()?.append(self.inode, parts)
    }

    fn sync(&self) -> io::Result<()> {
        self.sim()?.sync(self.inode)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let sim = self.sim()?;
        let file = sim.files.get(&self.inode).ok_or(ErrorKind::NotFound)?;
        let start = usize::try_from(offset).map_err(|_| ErrorKind::UnexpectedEof)?;
        let bytes = start
            .checked_add(out.len())
            .and_then(|end| file.seen.get(start..end))
            .ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut sim = self.sim()?;
        sim.operation()?;
        if let Some(file) = sim.files.get_mut(&self.inode) {
            file.seen.truncate(len as usize);
            file.dirty.retain(|page| page * PAGE < len as usize);
        }
        sim.on()
    }
}
