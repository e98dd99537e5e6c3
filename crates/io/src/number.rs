//! Numbers as JSON writes them, read without copying and without losing a bit.
//!
//! *Invariant:* a float is the one nearest to the digits. The fast path divides or multiplies two
//! numbers that are both exact (Clinger, "How to read floating point numbers accurately", 1990);
//! everything else goes to the standard library.

/// A number's digits, before it is known what type they have to fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number<'a> {
    /// As written.
    pub text: &'a [u8],
    pub negative: bool,
    /// Neither fraction nor exponent.
    pub whole: bool,
    /// Whether `mantissa` holds all digits.
    exact: bool,
    mantissa: u64,
    exponent: i32,
}

const POW10: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
const POW10_F32: [f32; 11] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];
/// Any 19 digits fit a `u64`.
const DIGITS_EXACT: usize = 19;

/// Reads the number at `at` and moves `at` behind it; `None` if there is none, with `at` where it
/// should have gone on.
#[inline(always)]
pub(crate) fn read<'a>(bytes: &'a [u8], at: &mut usize) -> Option<Number<'a>> {
    let start = *at;
    let negative = bytes.get(*at) == Some(&b'-');
    *at += usize::from(negative);
    let mut mantissa = 0;
    let mut count = if bytes.get(*at) == Some(&b'0') {
        *at += 1;
        1
    } else {
        digits(bytes, at, &mut mantissa)
    };
    if count == 0 {
        return None;
    }
    let mut number =
        Number { text: &[], negative, whole: true, exact: false, mantissa: 0, exponent: 0 };
    if bytes.get(*at) == Some(&b'.') {
        *at += 1;
        let fraction = digits(bytes, at, &mut mantissa);
        if fraction == 0 {
            return None;
        }
        count += fraction;
        number.whole = false;
        number.exponent = -i32::try_from(fraction).unwrap_or(i32::MAX);
    }
    if let Some(b'e' | b'E') = bytes.get(*at) {
        *at += 1;
        let down = bytes.get(*at) == Some(&b'-');
        *at += usize::from(matches!(bytes.get(*at), Some(b'-' | b'+')));
        let mut exponent = 0;
        match digits(bytes, at, &mut exponent) {
            0 => return None,
            // More digits may have wrapped around; the library will judge them.
            n if n > 9 => count = usize::MAX,
            _ => {
                let exponent = if down { -(exponent as i32) } else { exponent as i32 };
                number.exponent = number.exponent.saturating_add(exponent);
            }
        }
        number.whole = false;
    }
    number.text = &bytes[start..*at];
    number.mantissa = mantissa;
    number.exact = count <= DIGITS_EXACT;
    Some(number)
}

/// Adds the decimal digits at `at` to `mantissa`, eight at a time; wraps if they are too many.
#[inline(always)]
fn digits(bytes: &[u8], at: &mut usize, mantissa: &mut u64) -> usize {
    let start = *at;
    while let Some(eight) = bytes.get(*at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*eight);
        if !all_digits(word) {
            break;
        }
        *mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(value_of_eight(word));
        *at += 8;
    }
    while let Some(digit) = bytes.get(*at).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10) {
        *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
        *at += 1;
    }
    *at - start
}

/// Whether all eight bytes are ASCII digits.
#[inline(always)]
fn all_digits(word: u64) -> bool {
    let high = word & 0xf0f0_f0f0_f0f0_f0f0;
    let carried = word.wrapping_add(0x0606_0606_0606_0606) & 0xf0f0_f0f0_f0f0_f0f0;
    (high | (carried >> 4)) == 0x3333_3333_3333_3333
}

/// The number eight ASCII digits make, first digit in the lowest byte.
#[inline(always)]
fn value_of_eight(word: u64) -> u64 {
    let word = word - 0x3030_3030_3030_3030;
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8);
    let even = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let odd = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    even.wrapping_add(odd) >> 32
}

impl<'a> Number<'a> {
    /// A number as people write them, beyond what JSON takes: `+7`, `007`, `.5`, `5.`
    pub fn lenient(text: &'a [u8]) -> Option<Number<'a>> {
        let digits = text.strip_prefix(b"+").or(text.strip_prefix(b"-")).unwrap_or(text);
        let plain = digits.iter().all(|b| b.is_ascii_digit() || b".eE+-".contains(b));
        let whole = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(text).ok().filter(|_| plain)?.parse::<f64>().ok()?;
        let negative = text.starts_with(b"-");
        Some(Number { text, negative, whole, exact: false, mantissa: 0, exponent: 0 })
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.text).unwrap_or_default() // digits, signs, '.', 'e': always UTF-8
    }

    /// As a whole number, if it is one and fits.
    #[inline]
    pub fn to_i64(self) -> Option<i64> {
        if !self.whole {
            return None;
        }
        match (self.exact, self.negative) {
            (false, _) => self.text().parse().ok(),
            (true, false) => i64::try_from(self.mantissa).ok(),
            (true, true) => 0i64.checked_sub_unsigned(self.mantissa),
        }
    }

    /// As a whole number that is not negative, if it is one and fits.
    #[inline]
    pub fn to_u64(self) -> Option<u64> {
        match (self.whole, self.exact, self.negative) {
            (false, ..) => None,
            (true, false, _) => self.text().parse().ok(),
            (true, true, false) => Some(self.mantissa),
            (true, true, true) => (self.mantissa == 0).then_some(0),
        }
    }

    /// As the nearest float; `None` if that is infinite.
    #[inline]
    pub fn to_f64(self) -> Option<f64> {
        let power = POW10.get(self.exponent.unsigned_abs() as usize);
        let value = match power {
            Some(power) if self.exact && self.mantissa <= 1 << f64::MANTISSA_DIGITS => {
                let digits = self.mantissa as f64;
                if self.exponent < 0 { digits / power } else { digits * power }
            }
            _ => return self.text().parse().ok().filter(|v: &f64| v.is_finite()),
        };
        Some(if self.negative { -value } else { value })
    }

    /// As the nearest single-precision float; `None` if that is infinite.
    #[inline]
    pub fn to_f32(self) -> Option<f32> {
        let power = POW10_F32.get(self.exponent.unsigned_abs() as usize);
        let value = match power {
            Some(power) if self.exact && self.mantissa <= 1 << f32::MANTISSA_DIGITS => {
                let digits = self.mantissa as f32;
                if self.exponent < 0 { digits / power } else { digits * power }
            }
            _ => return self.text().parse().ok().filter(|v: &f32| v.is_finite()),
        };
        Some(if self.negative { -value } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn number(text: &str) -> Option<Number<'_>> {
        let mut at = 0;
        read(text.as_bytes(), &mut at).filter(|_| at == text.len())
    }

    #[test]
    fn whole_numbers_to_the_last_bit() {
        for text in ["0", "7", "12345678", "1700000000000", "9223372036854775807", "-0"] {
            assert_eq!(number(text).unwrap().to_i64(), text.parse().ok(), "{text}");
        }
        assert_eq!(number("-9223372036854775808").unwrap().to_i64(), Some(i64::MIN));
        assert_eq!(number("9223372036854775808").unwrap().to_i64(), None);
        assert_eq!(number("18446744073709551615").unwrap().to_u64(), Some(u64::MAX));
        assert_eq!(number("18446744073709551616").unwrap().to_u64(), None);
        assert_eq!(number("1.0").unwrap().to_i64(), None);
        for text in ["", "-", "+1", "01", ".5", "5.", "1e", "1e+", "0x1", "NaN"] {
            assert!(number(text).is_none(), "{text}");
        }
    }

    #[test]
    fn floats_are_those_of_the_standard_library() {
        let mut rng = Rng::new(7143);
        for _ in 0..200_000 {
            let text = match rng.below(4) {
                0 => format!("{}", f64::from_bits(rng.next_u64())),
                1 => format!("{:e}", f64::from_bits(rng.next_u64())),
                2 => format!("{}.{}", rng.below(100_000), rng.below(1_000_000)),
                _ => format!("{}e{}", rng.next_u64() >> rng.below(64), rng.below(60) as i64 - 30),
            };
            let Some(n) = number(&text) else { continue };
            let bits = |v: Option<f64>| v.filter(|v| v.is_finite()).map(f64::to_bits);
            assert_eq!(bits(n.to_f64()), bits(text.parse().ok()), "{text}");
            let bits = |v: Option<f32>| v.filter(|v| v.is_finite()).map(f32::to_bits);
            assert_eq!(bits(n.to_f32()), bits(text.parse().ok()), "{text}");
        }
    }
}
