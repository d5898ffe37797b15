//! One colour per server, the same in every plot of a page.
//!
//! The floor is grey: it is a measure, not a rival. Fanwheel and its variants are warm, all others cool.
//! Each is seen on white and on near black, and neighbours differ in lightness as well as in hue, for
//! readers who do not tell red from green.

pub(super) type Colour = (u8, u8, u8);

const GREYS: [Colour; 3] = [(0x8A, 0x91, 0x9C), (0x6B, 0x72, 0x7D), (0xA9, 0xAF, 0xB8)];
const WARM: [Colour; 3] = [(0xE2, 0x4E, 0x1B), (0xF0, 0x93, 0x2B), (0xB8, 0x32, 0x45)];
const COOL: [Colour; 6] = [
    (0x2F, 0x7E, 0xE0),
    (0x12, 0xA0, 0x8B),
    (0x9A, 0x63, 0xD8),
    (0x5B, 0xB7, 0xE8),
    (0x7C, 0xA8, 0x32),
    (0xD1, 0x6B, 0xB0),
];

/// Server and colour, in the order of first appearance. A page has a handful: looking through is no work.
#[derive(Debug)]
pub(super) struct Palette(Vec<(String, Colour)>);

impl Palette {
    pub(super) fn of<'a>(servers: impl Iterator<Item = &'a str>) -> Self {
        let mut colours: Vec<(String, Colour)> = Vec::new();
        let (mut greys, mut warm, mut cool) = (GREYS.iter().cycle(), WARM.iter().cycle(), COOL.iter().cycle());
        for server in servers {
            if !colours.iter().any(|(known, _)| known == server) {
                let family = if is_floor(server) {
                    &mut greys as &mut dyn Iterator<Item = &Colour>
                } else if is_fanwheel(server) {
                    &mut warm
                } else {
                    &mut cool
                };
                colours.extend(family.next().map(|colour| (server.to_owned(), *colour)));
            }
        }
        Self(colours)
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(server, _)| server.as_str())
    }

    pub(super) fn get(&self, server: &str) -> Colour {
        self.0.iter().find(|(known, _)| known == server).map_or(GREYS[0], |&(_, colour)| colour)
    }

    pub(super) fn css(&self, server: &str) -> String {
        let (red, green, blue) = self.get(server);
        format!("#{red:02x}{green:02x}{blue:02x}")
    }
}

/// Variants of the floor (`floor, coalesced`) are measures too.
pub(super) fn is_floor(server: &str) -> bool {
    server.to_ascii_lowercase().starts_with("floor")
}

pub(super) fn is_fanwheel(server: &str) -> bool {
    server.to_ascii_lowercase().starts_with("fanwheel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_colour_and_shares_it_with_nobody() {
        let servers = ["floor", "fanwheel", "nchan", "fanwheel, Redis", "pushpin", "node"];
        let palette = Palette::of(servers.into_iter().chain(["pushpin", "nchan", "floor"]));
        let mut colours: Vec<Colour> = servers.map(|server| palette.get(server)).to_vec();
        assert_eq!((colours[0], colours[1], colours[2]), (GREYS[0], WARM[0], COOL[0]));
        colours.sort_unstable();
        colours.dedup();
        assert_eq!(colours.len(), servers.len());
        assert_eq!(palette.servers().collect::<Vec<_>>(), servers);
        assert_eq!(palette.css("nchan"), "#2f7ee0");
    }
}
