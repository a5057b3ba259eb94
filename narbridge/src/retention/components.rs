//! An order of paths in which what refers comes before what it refers to.
//!
//! Nix makes no cycles, but a cache takes what it is told. Paths in a cycle refer to each other, so
//! they share a place in the order: their component (Tarjan 1972, without recursion).

use super::graph::Graph;

/// No number yet.
const NONE: u32 = u32::MAX;

/// For each path the number of its component. What a path refers to has a smaller number, or the same.
pub(super) fn components(graph: &Graph) -> Vec<u32> {
    let mut search = Search {
        reached: vec![NONE; graph.len()],
        lowest: vec![NONE; graph.len()],
        component: vec![NONE; graph.len()],
        open: Vec::new(),
        reached_so_far: 0,
        complete: 0,
    };
    for start in graph.present() {
        if search.reached[start as usize] == NONE {
            search.from(graph, start);
        }
    }
    search.component
}

struct Search {
    /// When each path was reached.
    reached: Vec<u32>,
    /// The earliest path that is open and can be reached from it.
    lowest: Vec<u32>,
    component: Vec<u32>,
    /// Paths that were reached and whose component is not complete.
    open: Vec<u32>,
    reached_so_far: u32,
    complete: u32,
}

impl Search {
    fn from(&mut self, graph: &Graph, start: u32) {
        // Paths on the way from the start, and how many references of each were followed.
        let mut way = vec![(start, 0)];
        self.reach(start);
        while let Some((path, followed)) = way.last_mut() {
            let path = *path;
            if let Some(&next) = graph.references(path).get(*followed) {
                *followed += 1;
                if self.reached[next as usize] == NONE {
                    self.reach(next);
                    way.push((next, 0));
                } else if self.component[next as usize] == NONE {
                    self.lower(path, self.reached[next as usize]);
                }
                continue;
            }
            way.pop();
            let lowest = self.lowest[path as usize];
            if lowest == self.reached[path as usize] {
                self.complete(path);
            } else if let Some((before, _)) = way.last() {
                self.lower(*before, lowest);
            }
        }
    }

    fn reach(&mut self, path: u32) {
        self.reached[path as usize] = self.reached_so_far;
        self.lowest[path as usize] = self.reached_so_far;
        self.reached_so_far += 1;
        self.open.push(path);
    }

    fn lower(&mut self, path: u32, to: u32) {
        let lowest = &mut self.lowest[path as usize];
        *lowest = to.min(*lowest);
    }

    /// What was reached from a path on and is open makes a component.
    fn complete(&mut self, path: u32) {
        while let Some(member) = self.open.pop() {
            self.component[member as usize] = self.complete;
            if member == path {
                break;
            }
        }
        self.complete += 1;
    }
}
