//! Pins.

use narbridge::cache::{PinError, PinName, PinRequest};

use super::*;
use crate::tenant::{Numbers, Pinned};

const PINS: [&str; 3] = ["main", "v1.2", "nightly"];

fn pin_name(number: usize) -> PinName {
    PINS[number].parse().unwrap()
}

impl World {
    pub(super) fn pin(&mut self, tenant: usize, a: u16, b: u16) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let (now, number) = (self.now(), usize::from(b) % PINS.len());
        let path = self.likely(tenant, a, b);
        let keep = [None, None, Some(1), Some(2), Some(3)][usize::from(b / 3) % 5];
        let until = [None, None, Some(HOUR), Some(3 * DAY), Some(15 * DAY)][usize::from(a / 7) % 5]
            .map(|span| now + span);
        let request = PinRequest {
            path: self.paths.path(path).clone(),
            revisions: keep.map(|keep| keep as u32),
            until,
            with_sources: false,
            created_by: String::new(),
        };
        let done = cache.add_pin(&pin_name(number), &request);
        let known = self.tenants[tenant].paths.contains_key(&path);
        match done {
            Ok(_) if known => {}
            Ok(_) => return Err(format!("p{path} was pinned and is not there")),
            Err(PinError::NoSuchPath { .. }) if !known => return Ok(()),
            Err(error) => return Err(format!("pinning p{path}: {error}")),
        }
        self.tenants[tenant].pins.entry(number).or_default().add(path, keep, until, now);
        self.verify_pins(tenant)
    }

    pub(super) fn unpin(&mut self, tenant: usize, a: u16) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let number = usize::from(a) % PINS.len();
        let there = cache.remove_pin(&pin_name(number)).map_err(failed("removing a pin"))?;
        same("a pin is there", there, self.tenants[tenant].pins.remove(&number).is_some())?;
        self.verify_pins(tenant)
    }

    /// The numbers of the pins of a cache, destroyed or not.
    pub(super) fn pins_left(&self, tenant: usize) -> Result<Numbers, Fault> {
        let pins = self.any_cache(tenant)?.pins().map_err(failed("listing pins"))?;
        let number = |name: &str| PINS.iter().position(|pin| *pin == name);
        let numbers = pins.iter().map(|pin| number(pin.name.as_str()));
        numbers.collect::<Option<_>>().ok_or_else(|| "an unknown pin is listed".to_owned())
    }

    /// All pins are as they were left.
    pub(super) fn verify_pins(&self, tenant: usize) -> Result<(), Fault> {
        let Some(cache) = self.cache(tenant)? else { return Ok(()) };
        let pins = cache.pins().map_err(failed("listing pins"))?;
        let found: Vec<_> = pins
            .into_iter()
            .map(|pin| {
                let revisions = pin.revisions.into_iter();
                let revisions =
                    revisions.map(|it| (self.paths.number(it.path.hash()), it.until)).collect();
                (pin.name.to_string(), pin.keep as usize, revisions)
            })
            .collect();
        let told = |(number, pin): (&usize, &Pinned)| {
            let revisions: Vec<_> =
                pin.revisions.iter().map(|it| (Some(it.path), it.until)).collect();
            (PINS[*number].to_owned(), pin.keep, revisions)
        };
        let mut expected: Vec<_> = self.tenants[tenant].pins.iter().map(told).collect();
        expected.sort();
        same(format!("the pins of {}", NAMES[tenant]), found, expected)
    }
}
