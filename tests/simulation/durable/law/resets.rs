//! What a reset may say, and where it may stand.

use fanwheel::event::{EventId, Tag};

use super::{REASONS, Reader, Stand, Verdict, ids, kept, must};
use crate::simulation::durable::truth::{State, Truth, Worth};
use crate::simulation::socket::Moment;

impl Reader {
    pub(super) fn see_reset(
        &mut self,
        data: &serde_json::Value,
        id: Option<EventId>,
        said: Moment,
        truth: &Truth,
    ) -> Verdict {
        must!(self.conn().opened.is_some(), "a reset before open");
        let reason = data["reason"].as_str().ok_or("no reason")?.to_owned();
        let topics = self.named(data)?;
        let kind = REASONS.iter().position(|known| *known == reason).ok_or_else(|| format!("reason {reason}"))?;
        self.tally.resets[kind] += 1;
        if ["gap", "overflow", "too-large"].contains(&&reason[..]) {
            for topic in topics {
                let followed = self.conn().live.get_mut(&topic);
                followed.ok_or_else(|| format!("reset {reason} of durable topic {topic}"))?.told = said;
            }
            return self.check_same_place(&reason, id, truth);
        }
        must!(topics.iter().all(|topic| self.durable.contains(topic)), "reset {reason} of a live topic");
        let id = id.ok_or_else(|| format!("reset {reason} without an id"))?;
        match &reason[..] {
            "trimmed" => self.see_trimmed(&topics, id, said, truth)?,
            _ => {
                must!(topics.len() == self.durable.len(), "reset {reason} of some topics only: {topics:?}");
                match &reason[..] {
                    "diverged" => self.see_diverged(id, said, truth)?,
                    "epoch" => self.see_epoch(said, truth)?,
                    _ => must!(self.conn().stand == Stand::Astray(None), "reset {reason} without such a cursor"),
                }
                if reason != "diverged" {
                    self.debts.clear();
                    // It begins anew: what was lost before that is none of its business.
                    self.conn().start = Some(id);
                }
                self.conn().told_at.push(id.tag);
            }
        }
        self.conn().stand = Stand::At(id);
        self.conn().start.get_or_insert(id);
        Ok(())
    }

    /// A block that tells nothing of durable topics carries the position there was.
    pub(super) fn check_same_place(&mut self, what: &str, id: Option<EventId>, truth: &Truth) -> Verdict {
        let durable = self.durable.clone();
        let (at, id) = match (self.conn().stand, id) {
            (Stand::At(at), Some(id)) => (at, id),
            (Stand::At(at), None) => return Err(format!("{what} without the position {at}")),
            (Stand::Oldest, Some(id)) => {
                let place = truth.place(id).ok_or("a place that never was")?;
                let left = kept(truth.between(id.tag, 0, place.count, &durable), truth);
                must!(left.is_empty(), "{what} with {id} skips {}", ids(&left, truth));
                self.conn().stand = Stand::At(id);
                return Ok(());
            }
            (stand, Some(id)) => return Err(format!("{what} with {id} at {stand:?}")),
            (_, None) => return Ok(()),
        };
        if id == at {
            return Ok(());
        }
        let to = truth.place(id).ok_or("nowhere")?.count;
        // From a place that was lost nothing leads on; what is said there may only repeat it.
        let from = self.place_on(id.tag, at, truth)?;
        let from = from.ok_or_else(|| format!("{what} leaves {at}, which was lost, for {id}"))?;
        let again = truth.between(id.tag, to, from, &durable);
        must!(again.is_empty(), "{what} at {at} with {id} repeats {}", ids(&again, truth));
        self.pass(&truth.between(id.tag, from, to, &durable), &format!("where {what} moves from {at} to {id}"), truth)?;
        must!(id.tag != at.tag || id.stamp >= at.stamp, "{what} at {at} goes back to {id}");
        // Or a loss that was told when it came here would be told again when it comes back.
        let ages = truth.state().age(at.tag).zip(truth.state().age(id.tag));
        must!(ages.is_none_or(|(before, now)| before <= now), "{what} at {at} goes back to the incarnation of {id}");
        self.conn().stand = Stand::At(id);
        Ok(())
    }

    /// Some of these topics' events have left their streams before this reader could be given them.
    fn see_trimmed(&mut self, topics: &[usize], id: EventId, said: Moment, truth: &Truth) -> Verdict {
        let durable = self.durable.clone();
        let to = truth.place(id).ok_or("trimmed to a place that never was")?.count;
        let at = match self.conn().stand {
            Stand::At(at) => at,
            // Between finding where they begin and reading them some may have left.
            Stand::Newest(_) => return Ok(()),
            stand => return Err(format!("reset trimmed at {stand:?}")),
        };
        let from = self.place_on(id.tag, at, truth)?;
        let from = from.ok_or_else(|| format!("trimmed to {id} behind {at}, which was lost"))?;
        must!(from <= to && (id.tag != at.tag || id.stamp >= at.stamp), "trimmed to {id} behind {at}");
        let passed = truth.between(id.tag, from, to, &durable);
        self.pass(&passed, &format!("where {topics:?} are trimmed from {at} to {id}"), truth)?;
        for &topic in topics {
            let excused = self.conn().excused.remove(&topic);
            self.conn().trimmed.insert(topic);
            // What is gone may also lie ahead: it is told before the next event of whichever topic.
            let is_gone = |number: usize| truth.events[number].gone.is_some_and(|gone| gone <= said);
            let is_ahead = |tag: Tag| {
                let next = truth.between(tag, from, usize::MAX, &[topic]).first().copied();
                truth.shared(id.tag, tag) >= from && next.is_some_and(is_gone)
            };
            let ahead = is_ahead(id.tag) || truth.states_within(0, said).iter().any(|state| is_ahead(state.tag));
            let lost = self.debts.remove(&topic) || excused || ahead;
            // A topic whose index entry was forgotten may have had events up to the horizon.
            // Since its number: a position that was made up may have a tag that is younger.
            let since = truth.states.iter().find(|state| state.last >= at.stamp).map_or(0, |state| state.at);
            let mut states = truth.states_within(since, said).iter();
            let unknown = states.any(|state| state.indexed & 1 << topic == 0 && state.horizon >= at.stamp);
            must!(lost || unknown, "trimmed {topic} from {at} to {id}, and nothing was");
        }
        Ok(())
    }

    /// Its position was lost, or it has passed a place where others had seen what was lost.
    fn see_diverged(&mut self, id: EventId, said: Moment, truth: &Truth) -> Verdict {
        let durable = self.durable.clone();
        let known = self.conn().known;
        let (at, since) = match self.conn().stand {
            Stand::Astray(Some(at)) => (at, known),
            Stand::At(at) => (at, truth.first_honoured(at).unwrap_or(known)),
            stand => return Err(format!("reset diverged at {stand:?}")),
        };
        let place = truth.place(at).ok_or_else(|| format!("diverged from {at}, of which nobody knows"))?;
        let to = truth.place(id).ok_or("diverged to a place that never was")?.count;
        let shared = truth.shared(at.tag, id.tag);
        let from = place.count.min(shared);
        // From a number of this incarnation that was never given one comes to its end, wherever that is.
        let made_up = at.tag == id.tag && matches!(self.conn().stand, Stand::Astray(_));
        if !made_up {
            let again = truth.between(id.tag, to, from, &durable);
            must!(again.is_empty(), "diverged from {at} to {id} repeats {}", ids(&again, truth));
            let passed = truth.between(id.tag, from, to, &durable);
            self.pass(&passed, &format!("where it diverges from {at} to {id}"), truth)?;
        }
        let states = truth.states_within(since, said);
        let ages = states.last().map(|state| (state.age(at.tag), state.age(id.tag)));
        let is_beyond = place.count > shared || at.tag == id.tag || id.stamp < at.stamp;
        if is_beyond && states.iter().any(|state| state.worth(at) == Worth::Diverged) {
            if let (Some((Some(from), Some(to))), Some(state)) = (ages, states.last()) {
                let passed = state.fences.get(from..to).unwrap_or_default().iter().map(|fence| fence.0);
                self.conn().told.extend(passed);
            }
            self.debts.clear();
            return Ok(());
        }
        must!(id.stamp >= at.stamp, "diverged for a loss of others at {at} goes back to {id}");
        let start = self.conn().start.unwrap_or(at);
        // Redis may have begun anew since, and the shard has yet to hear of that.
        let knows = |state: &&State| state.age(start.tag).is_some() && state.age(id.tag).is_some();
        let state = states.iter().rev().find(knows).or(states.last()).ok_or("before everything")?;
        let passed = state.age_of(start).zip(state.age(id.tag));
        let passed = passed.and_then(|(from, to)| state.fences.get(from..to)).unwrap_or_default();
        // Whether anybody had seen what was lost may be known to this shard first.
        let is_lossy = |tag: Tag, last, marked| marked || truth.tip(tag, Moment::MAX).is_some_and(|tip| tip > last);
        let untold = |&&(tag, last, marked): &&(Tag, _, bool)| is_lossy(tag, last, marked) && !self.told(tag);
        let untold = passed.iter().rev().find(untold).map(|fence| fence.0);
        let untold = untold.ok_or_else(|| format!("diverged at {at} to {id}, and nothing was lost"))?;
        self.conn().told.insert(untold);
        // It names all durable topics, so what had left them before this place is told with it; a cut may come before that
        // is told by itself.
        let debts = std::mem::take(&mut self.debts);
        self.conn().excused.extend(debts);
        self.tally.crossings += 1;
        Ok(())
    }

    fn see_epoch(&mut self, said: Moment, truth: &Truth) -> Verdict {
        let known = self.conn().known;
        let (at, since) = match self.conn().stand {
            Stand::Astray(Some(at)) => (at, known),
            Stand::At(at) => (at, truth.first_honoured(at).unwrap_or(known)),
            // What it was to be given first went with its epoch.
            Stand::Oldest | Stand::Newest(_) => return Ok(()),
            stand => return Err(format!("reset epoch at {stand:?}")),
        };
        let states = truth.states_within(since, said);
        // The shard judges where it stands itself: an incarnation may have come and gone again since this position.
        let forgot =
            |state: &State| states.iter().any(|before| before.at < state.at && state.age(before.tag).is_none());
        let unknown = states.iter().any(|state| state.worth(at) == Worth::Unknown || forgot(state));
        must!(unknown, "reset epoch at {at}, which is known");
        Ok(())
    }
}
