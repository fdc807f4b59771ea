import type { Spectrum } from '../analysis/spectrum.ts';
import type { WorkInProgress } from '../analysis/wip.ts';
import { xml } from '../xml.ts';
import { at, svg } from './svg.ts';
import { durationText, shortened } from './words.ts';

const WIDTH = 900;
const LEFT = 48;
const RIGHT = 12;
const TOP = 40;
const HEIGHT = 220;
const TICKS = 6;
/** More cannot be told apart; the others are drawn as one. */
const LAYERS_MAX = 7;
const NAME_MAX = 24;

/** Cases that go on, one layer an activity that they stand after. */
export function wipSvg(name: string, { times, activities }: WorkInProgress): string {
  const title = `Cases that go on in ${name}, by what happened last`;
  const [first, last] = [times[0], times.at(-1)];
  if (first === undefined || last === undefined || activities.length === 0) return empty(title);
  const shown = activities.slice(0, LAYERS_MAX);
  const rest = activities.slice(LAYERS_MAX);
  const others = times.map((_, i) => rest.reduce((sum, { cases }) => sum + (cases[i] ?? 0), 0));
  const layers = [...shown, ...(rest.length > 0 ? [{ activity: 'others', cases: others }] : [])];
  const totals = times.map((_, i) => layers.reduce((sum, { cases }) => sum + (cases[i] ?? 0), 0));
  const most = Math.max(1, ...totals);
  const x = (i: number) => LEFT + ((WIDTH - LEFT - RIGHT) * i) / Math.max(1, times.length - 1);
  const y = (n: number) => TOP + HEIGHT - (HEIGHT * n) / most;
  const below = times.map(() => 0);
  const areas = layers.map(({ activity, cases }, layer) => {
    const lower = below.map((n, i) => `${at(x(i))} ${at(y(n))}`).toReversed();
    const upper = below.map((n, i) => `${at(x(i))} ${at(y((below[i] = n + (cases[i] ?? 0))))}`);
    return `<path class="s${layer}" d="M${[...upper, ...lower].join('L')}Z"><title>${xml(activity)}: ${cases.at(-1) ?? 0} now</title></path>`;
  });
  const levels = [0, most / 2, most].map(
    (n) =>
      `<path class="axis" d="M${LEFT} ${at(y(n))}H${WIDTH - RIGHT}"/><text class="note" text-anchor="end" x="${LEFT - 6}" y="${at(y(n) + 4)}">${at(n)}</text>`,
  );
  const legend = layers.map(({ activity, cases }, layer) => {
    const [column, row] = [layer % 4, Math.floor(layer / 4)];
    const [left, top] = [LEFT + column * 212, TOP + HEIGHT + 34 + row * 20];
    return `<rect class="s${layer}" x="${left}" y="${top - 9}" width="10" height="10" rx="2"/><text class="note" x="${left + 15}" y="${top}">${xml(shortened(activity, NAME_MAX))}: ${cases.at(-1) ?? 0}</text>`;
  });
  return svg({
    width: WIDTH,
    height: TOP + HEIGHT + 46 + Math.ceil(layers.length / 4) * 20,
    title,
    body: [heading(title), ...areas, ...levels, ...timeAxis(Date.parse(first), Date.parse(last)), ...legend].join('\n'),
  });
}

/** One line a case from the one activity to the other; its colour says how long it took among the others. */
export function spectrumSvg(name: string, { from, to, total, quartilesMs, steps }: Spectrum): string {
  const title = `${name}: from ${from} to ${to}, ${total} times`;
  if (steps.length === 0) return empty(title);
  const begins = steps.map((step) => Date.parse(step.at));
  const first = Math.min(...begins);
  const last = Math.max(...steps.map(({ ms }, i) => (begins[i] as number) + ms));
  const x = (ms: number) => LEFT + ((WIDTH - LEFT - RIGHT) * (ms - first)) / Math.max(1, last - first);
  // The slowest last, on top of the others.
  const lines = steps
    .map((step, i) => ({ ...step, begin: begins[i] as number }))
    .toSorted((a, b) => a.quarter - b.quarter)
    .map(
      ({ begin, ms, quarter }) =>
        `<path class="q${quarter}" stroke-opacity="0.6" d="M${at(x(begin))} ${TOP + 18}L${at(x(begin + ms))} ${TOP + HEIGHT}"/>`,
    );
  const spans = quartilesMs.map(durationText);
  const legend = [`within ${spans[0]}`, `within ${spans[1]}`, `within ${spans[2]}`, 'longer'].map((text, quarter) => {
    const left = LEFT + quarter * 150;
    const top = TOP + HEIGHT + 36;
    return `<path class="q${quarter}" stroke-width="3" d="M${left} ${top - 4}h18"/><text class="note" x="${left + 24}" y="${top}">${xml(text)}</text>`;
  });
  const left = total > steps.length ? `, the newest ${steps.length} of them` : '';
  return svg({
    width: WIDTH,
    height: TOP + HEIGHT + 50,
    title,
    body: [
      heading(`${title}${left}`),
      ...lines,
      `<path class="axis" d="M${LEFT} ${TOP + 18}H${WIDTH - RIGHT}M${LEFT} ${TOP + HEIGHT}H${WIDTH - RIGHT}"/>`,
      `<text class="note" x="${LEFT}" y="${TOP + 13}">${xml(from)}</text><text class="note" text-anchor="end" x="${WIDTH - RIGHT}" y="${TOP + HEIGHT - 5}">${xml(to)}</text>`,
      ...timeAxis(first, last),
      ...legend,
    ].join('\n'),
  });
}

function heading(text: string): string {
  return `<text class="name" x="${LEFT}" y="22">${xml(shortened(text, 110))}</text>`;
}

function empty(title: string): string {
  return svg({
    width: WIDTH,
    height: 80,
    title,
    body: `${heading(title)}<text class="note" x="${LEFT}" y="50">Nothing happened in this period.</text>`,
  });
}

/** Times in UTC: with the day where it lasts longer than one. */
function timeAxis(fromMs: number, toMs: number): string[] {
  const days = toMs - fromMs > 86_400_000;
  return Array.from({ length: TICKS }, (_, i) => {
    const share = i / (TICKS - 1);
    const iso = new Date(fromMs + share * (toMs - fromMs)).toISOString();
    const anchor = i === 0 ? 'start' : i === TICKS - 1 ? 'end' : 'middle';
    const x = LEFT + (WIDTH - LEFT - RIGHT) * share;
    return `<text class="note" text-anchor="${anchor}" x="${at(x)}" y="${TOP + HEIGHT + 15}">${days ? iso.slice(0, 16).replace('T', ' ') : iso.slice(11, 19)}</text>`;
  });
}
