import { Graph, layout } from '@dagrejs/dagre';
import type { ProcessMap } from '../analysis/map.ts';
import { xml } from '../xml.ts';
import { drawn, type DrawnEdge, type DrawnNode, SLOW_SHARE } from './drawn.ts';
import { at, svg } from './svg.ts';
import { durationText, shortened } from './words.ts';

interface Point {
  readonly x: number;
  readonly y: number;
}
interface Box extends Point {
  readonly width: number;
  readonly height: number;
}
interface PlacedEdge extends Partial<Point> {
  readonly points?: readonly Point[];
}

const NAME_MAX = 34;
const NODE_HEIGHT = 46;
const MARGIN = 16;
const CAPTION_HEIGHT = 26;

/** The map as a picture, from the top down: how often and how fast cases go from one activity to the next, and where they stand. */
export function mapSvg(name: string, map: ProcessMap): string {
  const { nodes, edges, left } = drawn(map);
  const graph = new Graph<object, Box, PlacedEdge>();
  graph.setGraph({ rankdir: 'TB', nodesep: 36, ranksep: 34, edgesep: 18, marginx: MARGIN, marginy: MARGIN });
  const most = Math.max(1, ...edges.map(({ count }) => count));
  for (const node of nodes) graph.setNode(node.id, sizeOf(node) as Box);
  for (const edge of edges) {
    // The heavier, the straighter: the way that most cases take runs down the middle.
    const weight = 1 + Math.round((9 * edge.count) / most);
    graph.setEdge(edge.from, edge.to, { width: widthOf(edge), height: 16, labelpos: 'c', weight } as PlacedEdge);
  }
  if (nodes.length > 0) layout(graph);
  const { width = 0, height = 0 } = (nodes.length > 0 ? graph.graph() : {}) as { width?: number; height?: number };
  const caption = captionOf(
    map,
    left,
    edges.some(({ slow }) => slow),
  );
  const body = [
    ...edges.map((edge) => {
      const placed = graph.edge(edge.from, edge.to);
      const points = edge.from === edge.to ? loop(graph.node(edge.from), placed) : (placed.points ?? []);
      return edgeSvg(edge, points, 1 + (5 * edge.count) / most);
    }),
    ...nodes.map((node) => nodeSvg(node, graph.node(node.id))),
    // Above all lines, so that each can be read.
    ...edges.map((edge) => labelSvg(edge, graph.edge(edge.from, edge.to))),
    ...caption.map((line, i) => `<text class="note" x="${MARGIN}" y="${at(height + 12 + i * 16)}">${xml(line)}</text>`),
  ];
  return svg({
    width: Math.max(width, ...caption.map((line) => line.length * 5.6 + 2 * MARGIN)),
    height: height + CAPTION_HEIGHT + caption.length * 10,
    title: `Map of ${name}: ${caption.join(' ')}`,
    body: body.join('\n'),
  });
}

function captionOf({ cases, events, variants }: ProcessMap, left: number, slow: boolean): string[] {
  const rest = left > 0 ? `; ${left} seldom steps are left out` : '';
  const counts = `${cases} cases, ${events} events, ${variants} ways${rest}. Beside a line: how often, and half went within.`;
  return [counts, ...(slow ? [`Orange: at least ${SLOW_SHARE * 100} % of all time passes on this step.`] : [])];
}

function sizeOf({ kind, name }: DrawnNode): { width: number; height: number } {
  if (kind !== 'activity') return { width: 64, height: 30 };
  return { width: Math.max(112, shortened(name, NAME_MAX).length * 7.4 + 26), height: NODE_HEIGHT };
}

function labelOf({ count, times }: DrawnEdge): string {
  return times ? `${count} · ${durationText(times.medianMs)}` : String(count);
}

const widthOf = (edge: DrawnEdge) => labelOf(edge).length * 5.8 + 10;

function nodeSvg({ kind, name, count, waiting }: DrawnNode, { x, y, width, height }: Box): string {
  const [left, top] = [at(x - width / 2), at(y - height / 2)];
  const size = `x="${left}" y="${top}" width="${at(width)}" height="${at(height)}"`;
  if (kind !== 'activity')
    return `<g><title>${kind === 'start' ? 'Begin' : 'End'}: ${count} cases</title><rect class="outer" ${size} rx="15"/><text text-anchor="middle" x="${at(x)}" y="${at(y + 4)}">${kind}</text></g>`;
  const note = waiting > 0 ? `${count} · ${waiting} wait here` : String(count);
  return `<g data-activity="${xml(name)}"><title>${xml(name)}: ${count} times${waiting > 0 ? `; ${waiting} cases wait here now` : ''}</title><rect class="node${waiting > 0 ? ' waits' : ''}" ${size} rx="8"/><text class="name" text-anchor="middle" x="${at(x)}" y="${at(y - 3)}">${xml(shortened(name, NAME_MAX))}</text><text class="note" text-anchor="middle" x="${at(x)}" y="${at(y + 14)}">${note}</text></g>`;
}

function edgeSvg({ slow, times }: DrawnEdge, points: readonly Point[], width: number): string {
  const tone = slow ? ' slow' : '';
  return `<path class="edge${times ? '' : ' plain'}${tone}" stroke-width="${at(times ? width : 1)}" d="${curve(points)}"/>${tip(points, tone, 5 + width * 0.6)}`;
}

function labelSvg(edge: DrawnEdge, { x, y }: PlacedEdge): string {
  if (x === undefined || y === undefined) return '';
  const { count, times, slow } = edge;
  const title = times
    ? `<title>${count} times; median ${durationText(times.medianMs)}, 95 % within ${durationText(times.p95Ms)}</title>`
    : '';
  const wide = widthOf(edge);
  return `<rect class="paper" x="${at(x - wide / 2)}" y="${at(y - 8)}" width="${at(wide)}" height="16"/><text class="label${slow ? ' slow' : ''}" text-anchor="middle" x="${at(x)}" y="${at(y + 4)}">${title}${labelOf(edge)}</text>`;
}

/** From an activity to itself: out of its right side and back, around the label. */
function loop({ x, y, width, height }: Box, { x: out = x + width }: PlacedEdge): Point[] {
  const [side, dy] = [x + width / 2, height / 4];
  return [
    { x: side, y: y - dy },
    { x: out, y: y - 3 * dy },
    { x: out, y: y + 3 * dy },
    { x: side + 1, y: y + dy },
  ];
}

/** A smooth line through the middles of what the layout bends at. */
function curve(points: readonly Point[]): string {
  const [first, ...rest] = points;
  if (!first) return '';
  let path = `M${at(first.x)} ${at(first.y)}`;
  rest.forEach((point, i) => {
    const next = rest[i + 1];
    if (!next) path += i === 0 ? `L${at(point.x)} ${at(point.y)}` : '';
    else {
      const [x, y] = i === rest.length - 2 ? [next.x, next.y] : [(point.x + next.x) / 2, (point.y + next.y) / 2];
      path += `Q${at(point.x)} ${at(point.y)} ${at(x)} ${at(y)}`;
    }
  });
  return path;
}

function tip(points: readonly Point[], tone: string, size: number): string {
  const [before, end] = points.slice(-2);
  if (!before || !end) return '';
  const angle = Math.atan2(end.y - before.y, end.x - before.x);
  const corner = (turn: number) => `${at(end.x - size * Math.cos(angle + turn))} ${at(end.y - size * Math.sin(angle + turn))}`;
  return `<path class="tip${tone}" d="M${at(end.x)} ${at(end.y)}L${corner(0.45)}L${corner(-0.45)}Z"/>`;
}
