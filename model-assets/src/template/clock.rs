//! The time that a template may ask for, as its caller gives it.

/// A local date and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Such as 2026.
    pub year: u16,
    /// From 1.
    pub month: u8,
    /// From 1.
    pub day: u8,
    /// From 0.
    pub hour: u8,
    /// From 0.
    pub minute: u8,
    /// From 0.
    pub second: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Clock {
    /// The date that evidence is measured on: a prompt must not depend on the day of its proof. Llama 3.2's template
    /// names the same day where it is told none.
    pub const FIXED: Self = Self { year: 2024, month: 7, day: 26, hour: 12, minute: 0, second: 0 };

    /// The date and time of a count of seconds since 1970, in UTC.
    #[must_use]
    pub fn utc(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        // Howard Hinnant's `civil_from_days`: years that begin in March, eras of 400 years.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + u64::from(month <= 2);
        Self {
            year: u16::try_from(year).unwrap_or(u16::MAX),
            month: month as u8,
            day: day as u8,
            hour: hour as u8,
            minute: minute as u8,
            second: second as u8,
        }
    }

    /// Days since the year began, from 0.
    fn day_of_year(&self) -> u32 {
        let leap =
            self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let before = [0_u32, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let month = usize::from(self.month.saturating_sub(1));
        let days = before.get(month).copied().unwrap_or_default();
        days + u32::from(leap && self.month > 2) + u32::from(self.day) - 1
    }

    /// From 0, Sunday.
    fn weekday(&self) -> usize {
        let before = u32::from(self.year).saturating_sub(1);
        // 1 January of the year 1 was a Monday.
        ((before * 365 + before / 4 - before / 100 + before / 400 + self.day_of_year() + 1) % 7) as usize
    }

    /// The date in a format of C's `strftime`, in the C locale.
    pub(super) fn strftime(&self, format: &str) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut kind = chars.next();
            // `%-d`: without zeros in front.
            let bare = kind == Some('-');
            if bare {
                kind = chars.next();
            }
            text.push_str(&self.part(kind, bare)?);
        }
        Ok(text)
    }

    fn part(&self, kind: Option<char>, bare: bool) -> Result<String, String> {
        let two = |value: u32| if bare { value.to_string() } else { format!("{value:02}") };
        let name = |names: &[&'static str], at: usize| names.get(at).copied().unwrap_or_default();
        let month = name(&MONTHS, usize::from(self.month.saturating_sub(1)));
        let day = name(&DAYS, self.weekday());
        let short = |name: &'static str| name.get(..3).unwrap_or_default().to_owned();
        let twelve = match self.hour % 12 {
            0 => 12,
            hour => u32::from(hour),
        };
        let again = |format: &str| self.strftime(format);
        Ok(match kind {
            Some('Y') => self.year.to_string(),
            Some('y') => two(u32::from(self.year % 100)),
            Some('m') => two(self.month.into()),
            Some('d') => two(self.day.into()),
            Some('e') if bare => self.day.to_string(),
            Some('e') => format!("{:2}", self.day),
            Some('B') => month.to_owned(),
            Some('b' | 'h') => short(month),
            Some('A') => day.to_owned(),
            Some('a') => short(day),
            Some('w') => self.weekday().to_string(),
            Some('u') => (if self.weekday() == 0 { 7 } else { self.weekday() }).to_string(),
            Some('j') if bare => (self.day_of_year() + 1).to_string(),
            Some('j') => format!("{:03}", self.day_of_year() + 1),
            Some('H') => two(self.hour.into()),
            Some('I') => two(twelve),
            Some('M') => two(self.minute.into()),
            Some('S') => two(self.second.into()),
            Some('f') => "000000".to_owned(),
            Some('p') => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('F') => again("%Y-%m-%d")?,
            Some('T') => again("%H:%M:%S")?,
            Some('R') => again("%H:%M")?,
            Some('D' | 'x') => again("%m/%d/%y")?,
            Some('X') => again("%H:%M:%S")?,
            Some('c') => again("%a %b %e %H:%M:%S %Y")?,
            // A time without a zone, as the conventions have it.
            Some('Z' | 'z') => String::new(),
            Some('n') => "\n".to_owned(),
            Some('t') => "\t".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => return Err(format!("got `%{other}` in a date's format, expected one of C's")),
            None => return Err("got a lone `%` in a date's format".to_owned()),
        })
    }
}
