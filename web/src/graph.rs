//! Where the boxes and lines of a DAG's picture go. Pure; the drawing is a template's.
//!
//! Layered, left to right, in the manner of Sugiyama: a task's layer is its longest path from a source, an edge over several
//! layers passes through a placeholder in each, placeholders and tasks of a layer are ordered by the barycentre of their
//! neighbours, and heights are the least-squares solution that keeps the order and the distance (pool adjacent violators).
//! Every step is linear or `n log n`, and the number of placeholders is bounded: layout libraries took minutes for 1,000 tasks.

/// Width of a task's box, in pixels.
pub(crate) const NODE_WIDTH: f64 = 192.0;
/// Height of a task's box.
pub(crate) const NODE_HEIGHT: f64 = 46.0;
const LAYER_GAP: f64 = 64.0;
const NODE_GAP: f64 = 18.0;
/// Room that a line takes where it passes a layer.
const LINE_HEIGHT: f64 = 10.0;
const MARGIN: f64 = 12.0;
const ORDER_SWEEPS: usize = 8;
const HEIGHT_SWEEPS: usize = 6;
/// More placeholders than this are not made: further long edges are drawn straight across.
const MOST_PLACEHOLDERS: usize = 10_000;

/// A picture of a DAG.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Picture {
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// The upper left corner of each task's box, by ordinal.
    pub(crate) nodes: Vec<(f64, f64)>,
    pub(crate) edges: Vec<Edge>,
    /// Places and line segments that were visited, to test that the work is bounded.
    #[cfg(test)]
    work: usize,
}

/// A line from a task to one downstream of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edge {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The `d` of an SVG path.
    pub(crate) path: String,
}

/// A task or a placeholder, in the grid of layers.
struct Cell {
    layer: usize,
    height: f64,
    before: Vec<usize>,
    after: Vec<usize>,
    /// Its middle.
    y: f64,
}

/// Lays out tasks given the direct upstream ordinals of each; every upstream ordinal is smaller than the task's own.
pub(crate) fn lay_out(upstream: &[Vec<usize>]) -> Picture {
    let layer_of = layers(upstream);
    let mut cells: Vec<Cell> = layer_of
        .iter()
        .map(|&layer| Cell::new(layer, NODE_HEIGHT))
        .collect();
    let routes = connect(&mut cells, upstream);
    let mut rows: Vec<Vec<usize>> =
        vec![Vec::new(); layer_of.iter().max().map_or(0, |last| last + 1)];
    for (index, cell) in cells.iter().enumerate() {
        rows[cell.layer].push(index);
    }
    order(&mut rows, &cells);
    place(&rows, &mut cells);
    draw(&cells, &rows, &routes, upstream.len())
}

impl Cell {
    fn new(layer: usize, height: f64) -> Self {
        Self {
            layer,
            height,
            before: Vec::new(),
            after: Vec::new(),
            y: 0.0,
        }
    }
}

/// The longest path from a source; a source then moves right, next to the first task that needs it.
fn layers(upstream: &[Vec<usize>]) -> Vec<usize> {
    let mut layers = vec![0; upstream.len()];
    let mut nearest = vec![usize::MAX; upstream.len()];
    for (task, above) in upstream.iter().enumerate() {
        layers[task] = above.iter().map(|&up| layers[up] + 1).max().unwrap_or(0);
    }
    for (task, above) in upstream.iter().enumerate() {
        for &up in above {
            nearest[up] = nearest[up].min(layers[task]);
        }
    }
    for (task, above) in upstream.iter().enumerate() {
        if above.is_empty() && nearest[task] != usize::MAX {
            layers[task] = nearest[task] - 1;
        }
    }
    layers
}

/// Links cells of adjacent layers. Lines from one task share their placeholders, so they run as a bundle until they part.
/// Returns, for each edge, the cells it passes, ends included.
fn connect(cells: &mut Vec<Cell>, upstream: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut routes = Vec::new();
    let mut bundles: Vec<Vec<usize>> = vec![Vec::new(); upstream.len()];
    let mut placeholders = 0;
    for (task, above) in upstream.iter().enumerate() {
        for &up in above {
            let needed = cells[task].layer - cells[up].layer - 1;
            let missing = needed.saturating_sub(bundles[up].len());
            if placeholders + missing > MOST_PLACEHOLDERS {
                routes.push(vec![up, task]);
                continue;
            }
            placeholders += missing;
            while bundles[up].len() < needed {
                let last = bundles[up].last().copied().unwrap_or(up);
                let next = cells.len();
                cells.push(Cell::new(cells[last].layer + 1, LINE_HEIGHT));
                link(cells, last, next);
                bundles[up].push(next);
            }
            let last = if needed == 0 {
                up
            } else {
                bundles[up][needed - 1]
            };
            link(cells, last, task);
            let mut route = vec![up];
            route.extend_from_slice(&bundles[up][..needed]);
            route.push(task);
            routes.push(route);
        }
    }
    routes
}

fn link(cells: &mut [Cell], from: usize, to: usize) {
    cells[from].after.push(to);
    cells[to].before.push(from);
}

/// Orders every layer by the mean place of its neighbours, forwards and backwards, and keeps the order with the fewest crossings.
fn order(rows: &mut Vec<Vec<usize>>, cells: &[Cell]) {
    let mut rank = vec![0.0; cells.len()];
    let note = |row: &[usize], rank: &mut [f64]| {
        // Ranks are relative to the layer's middle, so that layers of different sizes line up.
        let middle = (row.len() as f64 - 1.0) / 2.0;
        for (index, &cell) in row.iter().enumerate() {
            rank[cell] = index as f64 - middle;
        }
    };
    for row in rows.iter() {
        note(row, &mut rank);
    }
    let mut best = rows.clone();
    let mut fewest = crossings(rows, cells);
    for sweep in 0..ORDER_SWEEPS {
        if fewest == 0 {
            break;
        }
        let forward = sweep % 2 == 0;
        for step in 0..rows.len() {
            let layer = if forward { step } else { rows.len() - 1 - step };
            let mut keyed: Vec<(f64, usize)> = rows[layer]
                .iter()
                .map(|&cell| {
                    let neighbours = if forward {
                        &cells[cell].before
                    } else {
                        &cells[cell].after
                    };
                    (
                        mean(neighbours.iter().map(|&other| rank[other])).unwrap_or(rank[cell]),
                        cell,
                    )
                })
                .collect();
            keyed.sort_by(|left, right| left.0.total_cmp(&right.0));
            rows[layer] = keyed.into_iter().map(|(_, cell)| cell).collect();
            note(&rows[layer], &mut rank);
        }
        let now = crossings(rows, cells);
        if now < fewest {
            fewest = now;
            best.clone_from(rows);
        }
    }
    *rows = best;
}

/// Counts crossings between adjacent layers with a Fenwick tree.
fn crossings(rows: &[Vec<usize>], cells: &[Cell]) -> usize {
    let mut place = vec![0; cells.len()];
    for row in rows {
        for (index, &cell) in row.iter().enumerate() {
            place[cell] = index;
        }
    }
    let mut total = 0;
    for (layer, row) in rows.iter().enumerate().take(rows.len().saturating_sub(1)) {
        let size = rows[layer + 1].len();
        let mut tree = vec![0usize; size + 1];
        let mut seen = 0;
        for &cell in row {
            let mut ends: Vec<usize> = cells[cell]
                .after
                .iter()
                .map(|&other| place[other])
                .collect();
            ends.sort_unstable();
            for &end in &ends {
                let mut at_or_before = 0;
                let mut index = end + 1;
                while index > 0 {
                    at_or_before += tree[index];
                    index &= index - 1;
                }
                total += seen - at_or_before;
            }
            for &end in &ends {
                let mut index = end + 1;
                while index <= size {
                    tree[index] += 1;
                    index += index & index.wrapping_neg();
                }
                seen += 1;
            }
        }
    }
    total
}

/// Gives every cell its height on the page: near its neighbours, in order, without overlap.
fn place(rows: &[Vec<usize>], cells: &mut [Cell]) {
    for row in rows {
        let mut y = 0.0;
        let mut before: Option<usize> = None;
        for &cell in row {
            if let Some(before) = before {
                y += distance(&cells[before], &cells[cell]);
            }
            cells[cell].y = y;
            before = Some(cell);
        }
        let middle = y / 2.0;
        for &cell in row {
            cells[cell].y -= middle;
        }
    }
    for sweep in 0..HEIGHT_SWEEPS {
        let forward = sweep % 2 == 0;
        for step in 0..rows.len() {
            let row = &rows[if forward { step } else { rows.len() - 1 - step }];
            let wished: Vec<f64> = row
                .iter()
                .map(|&cell| {
                    let near = if forward {
                        &cells[cell].before
                    } else {
                        &cells[cell].after
                    };
                    mean(near.iter().map(|&other| cells[other].y)).unwrap_or(cells[cell].y)
                })
                .collect();
            settle(row, &wished, cells);
        }
    }
}

/// The heights closest to the wished ones that keep order and distance.
fn settle(row: &[usize], wished: &[f64], cells: &mut [Cell]) {
    // With the distances taken out the constraint is "not falling", and averaging neighbours that violate it is optimal.
    let mut offsets = Vec::with_capacity(row.len());
    let mut offset = 0.0;
    for (index, &cell) in row.iter().enumerate() {
        if index > 0 {
            offset += distance(&cells[row[index - 1]], &cells[cell]);
        }
        offsets.push(offset);
    }
    let mut blocks: Vec<(f64, usize)> = Vec::with_capacity(row.len());
    for (wish, offset) in wished.iter().zip(&offsets) {
        let mut sum = wish - offset;
        let mut count = 1;
        while let Some(&(above, size)) = blocks.last() {
            if above / size as f64 <= sum / count as f64 {
                break;
            }
            blocks.pop();
            sum += above;
            count += size;
        }
        blocks.push((sum, count));
    }
    let settled = blocks
        .into_iter()
        .flat_map(|(sum, count)| std::iter::repeat_n(sum / count as f64, count));
    for ((&cell, offset), base) in row.iter().zip(offsets).zip(settled) {
        cells[cell].y = base + offset;
    }
}

fn distance(above: &Cell, below: &Cell) -> f64 {
    (above.height + below.height) / 2.0
        + if above.height.min(below.height) < NODE_HEIGHT {
            NODE_GAP / 2.0
        } else {
            NODE_GAP
        }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn draw(cells: &[Cell], rows: &[Vec<usize>], routes: &[Vec<usize>], tasks: usize) -> Picture {
    let top = cells
        .iter()
        .map(|cell| cell.y - cell.height / 2.0)
        .fold(f64::INFINITY, f64::min);
    let bottom = cells
        .iter()
        .map(|cell| cell.y + cell.height / 2.0)
        .fold(f64::NEG_INFINITY, f64::max);
    let left = |cell: usize| MARGIN + cells[cell].layer as f64 * (NODE_WIDTH + LAYER_GAP);
    let middle = |cell: usize| (cells[cell].y - top + MARGIN).round();
    let nodes = (0..tasks)
        .map(|task| (left(task), middle(task) - NODE_HEIGHT / 2.0))
        .collect();
    let edges = routes
        .iter()
        .map(|route| {
            let (first, last) = (route[0], route[route.len() - 1]);
            let (mut x, mut y) = (left(first) + NODE_WIDTH, middle(first));
            let mut path = format!("M{x} {y}");
            for &cell in &route[1..] {
                let (to_x, to_y) = (left(cell), middle(cell));
                let bend = (to_x - x) / 2.0;
                path.push_str(&format!(
                    "C{} {y} {} {to_y} {to_x} {to_y}",
                    x + bend,
                    to_x - bend
                ));
                if cell != last {
                    path.push_str(&format!("H{}", to_x + NODE_WIDTH));
                }
                (x, y) = (to_x + NODE_WIDTH, to_y);
            }
            Edge {
                from: first,
                to: last,
                path,
            }
        })
        .collect();
    let columns = rows.len() as f64;
    Picture {
        width: if tasks == 0 {
            0.0
        } else {
            2.0 * MARGIN + columns * NODE_WIDTH + (columns - 1.0) * LAYER_GAP
        },
        height: if tasks == 0 {
            0.0
        } else {
            (bottom - top).ceil() + 2.0 * MARGIN
        },
        nodes,
        edges,
        #[cfg(test)]
        work: (cells.len() + cells.iter().map(|cell| cell.after.len()).sum::<usize>())
            * (ORDER_SWEEPS + HEIGHT_SWEEPS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A DAG from a seed, without a random crate: `width` tasks per rank, a few edges back over up to four ranks.
    fn scrambled(tasks: usize, width: usize, mut seed: u64) -> Vec<Vec<usize>> {
        let mut next = move |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below.max(1)
        };
        (0..tasks)
            .map(|task| {
                let reach = task.min(width * 4);
                let mut above: Vec<usize> = if reach == 0 {
                    Vec::new()
                } else {
                    (0..next(4)).map(|_| task - 1 - next(reach)).collect()
                };
                above.sort_unstable();
                above.dedup();
                above
            })
            .collect()
    }

    fn assert_sound(upstream: &[Vec<usize>]) -> Picture {
        let picture = lay_out(upstream);
        assert_eq!(picture.nodes.len(), upstream.len());
        for (index, &(x, y)) in picture.nodes.iter().enumerate() {
            assert!(
                x >= 0.0
                    && y >= 0.0
                    && x + NODE_WIDTH <= picture.width
                    && y + NODE_HEIGHT <= picture.height
            );
            for &(other_x, other_y) in &picture.nodes[index + 1..] {
                let apart = (x - other_x).abs() >= NODE_WIDTH || (y - other_y).abs() >= NODE_HEIGHT;
                assert!(apart, "boxes overlap at {x},{y} and {other_x},{other_y}");
            }
        }
        assert_eq!(
            picture.edges.len(),
            upstream.iter().map(Vec::len).sum::<usize>()
        );
        for edge in &picture.edges {
            assert!(
                picture.nodes[edge.from].0 + NODE_WIDTH < picture.nodes[edge.to].0,
                "an edge goes backwards"
            );
        }
        picture
    }

    #[test]
    fn an_empty_dag_has_an_empty_picture() {
        let picture = lay_out(&[]);
        assert_eq!((picture.width, picture.height), (0.0, 0.0));
    }

    #[test]
    fn a_diamond_is_symmetric() {
        let picture = assert_sound(&[vec![], vec![0], vec![0], vec![1, 2]]);
        let middle = |task: usize| picture.nodes[task].1;
        assert!((middle(0) - (middle(1) + middle(2)) / 2.0).abs() <= 1.0);
        assert!((middle(0) - middle(3)).abs() <= 1.0);
    }

    #[test]
    fn a_chain_is_a_straight_line() {
        let picture = assert_sound(&[vec![], vec![0], vec![1], vec![2]]);
        assert!(
            picture
                .nodes
                .windows(2)
                .all(|pair| pair[0].1 == pair[1].1 && pair[0].0 < pair[1].0)
        );
    }

    #[test]
    fn a_long_edge_goes_around_the_boxes_between() {
        let upstream = [vec![], vec![0], vec![1], vec![0, 2]];
        let picture = assert_sound(&upstream);
        let long = picture
            .edges
            .iter()
            .find(|edge| (edge.from, edge.to) == (0, 3))
            .expect("the edge is drawn");
        assert_eq!(
            long.path.matches('H').count(),
            2,
            "it passes two layers: {}",
            long.path
        );
    }

    #[test]
    fn two_crossed_pairs_are_uncrossed() {
        // Tasks 0 and 1 above 2 and 3, wired crosswise.
        let upstream = [vec![], vec![], vec![1], vec![0]];
        let picture = assert_sound(&upstream);
        assert_eq!(
            picture.nodes[2].1 > picture.nodes[3].1,
            picture.nodes[1].1 > picture.nodes[0].1
        );
    }

    #[test]
    fn scrambled_dags_have_no_overlaps_and_only_forward_edges() {
        for seed in 0..60 {
            assert_sound(&scrambled(40, 5, seed));
        }
    }

    #[test]
    fn the_same_dag_gives_the_same_picture() {
        let upstream = scrambled(200, 12, 7);
        assert_eq!(lay_out(&upstream), lay_out(&upstream));
    }

    #[test]
    fn a_thousand_tasks_take_bounded_work() {
        let shapes: [Vec<Vec<usize>>; 4] = [
            scrambled(1_000, 25, 3),
            (0..1_000)
                .map(|task| if task == 0 { vec![] } else { vec![0] })
                .collect(),
            (0..1_000)
                .map(|task: usize| task.checked_sub(1).into_iter().collect())
                .collect(),
            // A chain in which every task also feeds the last: without the bound, half a million placeholders.
            (0..1_000)
                .map(|task: usize| {
                    if task == 999 {
                        (0..999).collect()
                    } else {
                        task.checked_sub(1).into_iter().collect()
                    }
                })
                .collect(),
        ];
        for upstream in &shapes {
            let picture = assert_sound(upstream);
            assert!(picture.work < 400_000, "{} steps", picture.work);
        }
    }
}
