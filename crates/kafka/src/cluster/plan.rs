//! Who should run what: a pure function of the view and the list of tasks.
//!
//! *Why incumbents first:* a task that moves costs a pause and maybe a restore, so a plan begins
//! with what is and changes as little as balance needs. Rendezvous hashing only chooses for tasks
//! that nobody has.
//!
//! *How*
//! 1. A task whose owner is active stays; one that was granted goes to whom it was granted to.
//! 2. Of the others each goes to its live standby with the least lag, unless that node would get
//!    more than one task above the mean; then the rest fill up who has least, by rendezvous.
//! 3. While somebody has more than one task above or below the mean, one moves from who has most to
//!    who has least. First those that were just taken over from a dead owner, so that a loss moves
//!    what was lost and nothing else; then those that are warm there.
//! 4. Standbys of a node's tasks are placed as if that node were about to die: what step 2 would
//!    then do is balanced. A standby stays as long as that holds to within one task.
//!
//! The last two wait until nothing is left to be opened.
//!
//! *Invariants:* the same view and tasks give the same plan on every node; a task's standby is
//! never its owner.
//!
//! *Cost:* linear in the tasks, and one hash per node for each task that has to be placed anew.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    NodeKey, TaskKey,
    record::{Entry, State},
    view::{Holders, View},
};

/// No node.
const NOBODY: u32 = u32::MAX;
/// By how many tasks a standby's node may come out above the mean and the standby still stays; a
/// planned hand-over mends it afterwards.
const SLACK: u32 = 1;

/// A task that nobody runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Which.
    pub task: TaskKey,
    /// Who shall open it.
    pub to: NodeKey,
    /// Its last owner has released it to that node.
    pub granted: bool,
    /// That node follows its state.
    pub warm: bool,
}

/// A task that its owner shall hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub task: TaskKey,
    /// Who has it.
    pub from: NodeKey,
    /// Who shall have it.
    pub to: NodeKey,
}

/// What is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Tasks to be opened now.
    pub opens: Vec<Open>,
    /// Tasks to be handed over, when they are warm where they go.
    pub moves: Vec<Move>,
    /// Sorted by task.
    standbys: Vec<(TaskKey, NodeKey)>,
}

impl Plan {
    /// The plan for `tasks`, which are sorted. Empty while no node is active.
    pub fn of(view: &View, tasks: &[TaskKey]) -> Plan {
        let mut draft = Draft::new(view, tasks);
        if draft.nodes.is_empty() {
            return Plan::default();
        }
        draft.keep();
        draft.place_warm();
        draft.place_rest();
        if !draft.plan.is_first_half() {
            draft.balance();
            draft.place_standbys();
        }
        draft.plan
    }

    /// Whether there was nobody to plan for.
    pub fn is_empty(&self) -> bool {
        self.opens.is_empty() && self.moves.is_empty() && self.standbys.is_empty()
    }

    /// Whether something has to be opened that nobody runs. Until it is, nothing is planned for
    /// balance and standbys: it would be another plan a moment later.
    pub fn is_first_half(&self) -> bool {
        self.opens.iter().any(|open| !open.granted)
    }

    /// Where a task's standby should be.
    pub fn standby(&self, task: TaskKey) -> Option<NodeKey> {
        let at = self.standbys.binary_search_by_key(&task, |(task, _)| *task).ok()?;
        Some(self.standbys[at].1)
    }

    /// All tasks with where their standby should be.
    pub fn standbys(&self) -> impl Iterator<Item = (TaskKey, NodeKey)> {
        self.standbys.iter().copied()
    }
}

/// How many tasks each node has, and how many it may get.
struct Loads {
    of: Vec<u32>,
    floor: u32,
    ceil: u32,
    /// How many more nodes may have `ceil`, where that is not `floor`.
    spare: i64,
}

impl Loads {
    fn new(tasks: usize, nodes: usize) -> Loads {
        let (tasks, nodes) = (tasks as u32, nodes as u32);
        Loads {
            of: vec![0; nodes as usize],
            floor: tasks / nodes,
            ceil: tasks.div_ceil(nodes),
            spare: i64::from(tasks % nodes),
        }
    }

    fn add(&mut self, node: u32) {
        let load = &mut self.of[node as usize];
        *load += 1;
        self.spare -= i64::from(*load == self.ceil);
    }

    fn remove(&mut self, node: u32) {
        let load = &mut self.of[node as usize];
        self.spare += i64::from(*load == self.ceil);
        *load -= 1;
    }

    /// Whether one more leaves room for all others to get their share.
    fn has_room(&self, node: u32) -> bool {
        let load = self.of[node as usize];
        load < self.floor || (load == self.floor && self.ceil > self.floor && self.spare > 0)
    }

    /// The least and the most that are within one of the mean.
    fn bounds(&self) -> (u32, u32) {
        match self.floor == self.ceil {
            true => (self.floor.saturating_sub(1), self.ceil + 1),
            false => (self.floor, self.ceil),
        }
    }
}

struct Draft<'a> {
    view: &'a View,
    tasks: &'a [TaskKey],
    /// What is said of each task.
    known: Vec<Option<&'a Holders>>,
    /// The active nodes, sorted.
    nodes: Vec<NodeKey>,
    /// From a place in the view to an index of `nodes`.
    index: Vec<u32>,
    /// Who shall have each task in the end.
    owner: Vec<u32>,
    /// Tasks whose owner is active and stays, as far as steps 1 and 2 go.
    stays: Vec<bool>,
    /// Tasks to be placed.
    pool: Vec<usize>,
    loads: Loads,
    plan: Plan,
}

impl<'a> Draft<'a> {
    fn new(view: &'a View, tasks: &'a [TaskKey]) -> Draft<'a> {
        let active = view.nodes().filter(|n| n.state == State::Active);
        let nodes: Vec<NodeKey> = active.map(|n| n.key).collect();
        let at = |key| nodes.binary_search(&key).map_or(NOBODY, |at| at as u32);
        let index = view.places().iter().map(|n| at(n.key)).collect();
        let mut all = view.holders().peekable();
        let mut known = |task: TaskKey| {
            while all.next_if(|(other, _)| *other < task).is_some() {}
            all.next_if(|(other, _)| *other == task).map(|(_, holders)| holders)
        };
        Draft {
            view,
            tasks,
            known: tasks.iter().map(|task| known(*task)).collect(),
            index,
            owner: vec![NOBODY; tasks.len()],
            stays: vec![false; tasks.len()],
            pool: Vec::new(),
            loads: Loads::new(tasks.len(), nodes.len().max(1)),
            nodes,
            plan: Plan::default(),
        }
    }

    fn holders(&self, at: usize) -> impl Iterator<Item = (u32, Entry)> + use<'a, '_> {
        let list = self.known[at].map(|h| h.list.iter()).into_iter().flatten();
        list.map(|(place, entry)| (self.index[*place], *entry))
    }

    fn declines(&self, at: usize, node: u32) -> bool {
        self.holders(at).any(|(holder, entry)| holder == node && entry.declines())
    }

    fn weight(&self, at: usize, node: u32) -> u64 {
        self.tasks[at].weight(self.nodes[node as usize])
    }

    fn give(&mut self, at: usize, node: u32) {
        self.owner[at] = node;
        self.loads.add(node);
    }

    fn keep(&mut self) {
        for at in 0..self.tasks.len() {
            let owner = self.known[at].and_then(|h| h.owner);
            if let Some(place) = owner {
                match self.index[place] {
                    NOBODY => self.pool.push(at),
                    node => {
                        self.give(at, node);
                        self.stays[at] = true;
                    }
                }
                continue;
            }
            let granted = self.holders(at).find_map(|(_, entry)| match entry {
                Entry::Granted { to, .. } => self.nodes.binary_search(&to).ok(),
                _ => None,
            });
            match granted.map(|node| node as u32).filter(|node| !self.declines(at, *node)) {
                Some(node) => {
                    self.give(at, node);
                    self.open(at, node, true);
                }
                None => self.pool.push(at),
            }
        }
    }

    /// Notes that a task of the pool goes to a node: opened there, or moved from who leaves.
    fn open(&mut self, at: usize, node: u32, granted: bool) {
        let (task, to) = (self.tasks[at], self.nodes[node as usize]);
        let from = self.known[at].and_then(|h| h.owner).map(|place| self.view.places()[place].key);
        match from {
            Some(from) => self.plan.moves.push(Move { task, from, to }),
            None => {
                let warm = self.holders(at).any(|(n, e)| n == node && e.lag().is_some());
                self.plan.opens.push(Open { task, to, granted, warm });
            }
        }
    }

    fn place_warm(&mut self) {
        let most = self.loads.ceil + SLACK;
        let mut rest = Vec::new();
        for at in std::mem::take(&mut self.pool) {
            let fits = |node: u32| node != NOBODY && self.loads.of[node as usize] < most;
            let warm = self.holders(at).filter(|(node, e)| fits(*node) && !e.declines());
            let warm = warm.filter_map(|(node, e)| Some((e.lag()?, node)));
            match warm.min_by_key(|(lag, node)| (*lag, Reverse(self.weight(at, *node)))) {
                Some((_, node)) => {
                    self.give(at, node);
                    self.open(at, node, false);
                }
                None => rest.push(at),
            }
        }
        self.pool = rest;
    }

    fn place_rest(&mut self) {
        for at in std::mem::take(&mut self.pool) {
            let all = 0..self.nodes.len() as u32;
            let may = |node: &u32| !self.declines(at, *node);
            let roomy = all.clone().filter(|node| self.loads.has_room(*node)).filter(may);
            let best = roomy.max_by_key(|node| self.weight(at, *node));
            let least = |node: &u32| (self.loads.of[*node as usize], self.weight(at, *node));
            // Where all decline it, it waits until one of them would have it again.
            if let Some(node) = best.or_else(|| all.filter(may).min_by_key(least)) {
                self.give(at, node);
                self.open(at, node, false);
            }
        }
    }

    fn balance(&mut self) {
        let (least, most) = self.loads.bounds();
        let by_load = self.loads.of.iter().zip(0..).map(|(load, node)| (*load, node));
        let mut order: BTreeSet<(u32, u32)> = by_load.collect();
        let mut owned = Vec::new();
        let mut lists: BTreeMap<(u32, u32), std::vec::IntoIter<usize>> = BTreeMap::new();
        while let (Some(&low), Some(&high)) = (order.first(), order.last()) {
            if (high.0 <= most && low.0 >= least) || high.0 - low.0 < 2 {
                return;
            }
            let (from, to) = (high.1, low.1);
            if owned.is_empty() {
                owned = self.owned();
            }
            let list = lists
                .entry((from, to))
                .or_insert_with(|| self.movable(&owned[from as usize], to).into_iter());
            // What is not open yet cannot be handed over; the plan is made anew when it is.
            let Some(at) = list.find(|at| self.owner[*at] == from) else { return };
            let (task, key) = (self.tasks[at], |node: u32| self.nodes[node as usize]);
            self.plan.moves.push(Move { task, from: key(from), to: key(to) });
            self.owner[at] = to;
            self.loads.remove(from);
            self.loads.add(to);
            order.remove(&low);
            order.remove(&high);
            order.extend([(low.0 + 1, to), (high.0 - 1, from)]);
        }
    }

    /// The tasks that each node has and could hand over.
    fn owned(&self) -> Vec<Vec<usize>> {
        let mut owned = vec![Vec::new(); self.nodes.len()];
        for at in (0..self.tasks.len()).filter(|at| self.stays[*at]) {
            owned[self.owner[at] as usize].push(at);
        }
        owned
    }

    /// Tasks in the order in which they should go to a node.
    fn movable(&self, tasks: &[usize], to: u32) -> Vec<usize> {
        let taken = |at: usize| {
            self.holders(at).any(|(_, e)| matches!(e, Entry::Owner { taken: true, .. }))
        };
        let warm = |at: usize| self.holders(at).any(|(n, e)| n == to && e.lag().is_some());
        let may = tasks.iter().copied().filter(|at| !self.declines(*at, to));
        let mut list: Vec<usize> = may.collect();
        list.sort_by_cached_key(|at| (!taken(*at), !warm(*at), Reverse(self.weight(*at, to)), *at));
        list
    }

    fn place_standbys(&mut self) {
        if self.nodes.len() < 2 {
            return;
        }
        let mut standbys = Standbys::new(&self.loads, self.tasks.len());
        let mut rest = Vec::new();
        let mut placed = vec![NOBODY; self.tasks.len()];
        for at in (0..self.tasks.len()).filter(|at| self.owner[*at] != NOBODY) {
            let owner = self.owner[at];
            let may = |node: u32| node != NOBODY && node != owner && standbys.stays(owner, node);
            let here = self.holders(at).filter(|(node, e)| e.lag().is_some() && may(*node));
            match here.map(|(node, _)| node).max_by_key(|node| self.weight(at, *node)) {
                Some(node) => {
                    placed[at] = node;
                    standbys.add(owner, node);
                }
                None => rest.push(at),
            }
        }
        for at in rest {
            let owner = self.owner[at];
            let mut best = (0, 0, NOBODY);
            for node in (0..self.nodes.len() as u32).filter(|node| *node != owner) {
                let room = standbys.room(owner, node);
                if room >= best.0 {
                    best = best.max((room, self.weight(at, node), node));
                }
            }
            placed[at] = best.2;
            standbys.add(owner, best.2);
        }
        let named = self.tasks.iter().zip(placed).filter(|(_, node)| *node != NOBODY);
        self.plan.standbys = named.map(|(t, node)| (*t, self.nodes[node as usize])).collect();
    }
}

/// How many standbys each node has, and how many of whom.
struct Standbys<'a> {
    loads: &'a [u32],
    /// As [`Loads`] after the loss of any one node.
    after: Loads,
    all: Vec<u32>,
    /// The fair share of one node.
    share: u32,
    /// By owner: the number of its standbys on each node, and how many more nodes could then have
    /// `after.ceil` tasks.
    of: Vec<(BTreeMap<u32, u32>, i64)>,
}

impl<'a> Standbys<'a> {
    fn new(loads: &'a Loads, tasks: usize) -> Standbys<'a> {
        let nodes = loads.of.len();
        let after = Loads::new(tasks, nodes - 1);
        let is_full = |load: &u32| i64::from(*load >= after.ceil);
        let full = loads.of.iter().map(is_full).sum::<i64>();
        let of = loads.of.iter().map(|load| (BTreeMap::new(), after.spare - full + is_full(load)));
        Standbys {
            of: of.collect(),
            loads: &loads.of,
            all: vec![0; nodes],
            share: loads.ceil,
            after,
        }
    }

    /// What a node would have after the loss of `owner`.
    fn after(&self, owner: u32, node: u32) -> u32 {
        let more = self.of[owner as usize].0.get(&node).copied().unwrap_or(0);
        self.loads[node as usize] + more
    }

    fn stays(&self, owner: u32, node: u32) -> bool {
        let share = self.share + self.share / 8 + SLACK;
        self.after(owner, node) < self.after.ceil + SLACK && self.all[node as usize] < share
    }

    /// The greater, the better.
    fn room(&self, owner: u32, node: u32) -> u32 {
        let (load, after) = (self.after(owner, node), &self.after);
        let spare = after.ceil > after.floor && self.of[owner as usize].1 > 0;
        let even = load < after.floor || (load == after.floor && spare);
        let fair = self.all[node as usize] < self.share;
        match (even, load < after.ceil + SLACK) {
            (true, _) => 2 + u32::from(fair),
            (false, true) => 1,
            (false, false) => 0,
        }
    }

    fn add(&mut self, owner: u32, node: u32) {
        let ceil = self.after.ceil;
        let full = self.after(owner, node) + 1 == ceil;
        let of = &mut self.of[owner as usize];
        *of.0.entry(node).or_default() += 1;
        of.1 -= i64::from(full);
        self.all[node as usize] += 1;
    }
}
