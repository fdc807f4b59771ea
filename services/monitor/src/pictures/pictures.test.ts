import { expect, it } from 'vitest';
import type { ProcessMap } from '../analysis/map.ts';
import { mapDot } from './map-dot.ts';
import { mapSvg } from './map-svg.ts';
import { durationText } from './words.ts';

const edge = (from: string, to: string, count: number, ms: number) => ({
  from,
  to,
  count,
  medianMs: ms,
  p95Ms: 2 * ms,
  meanMs: ms,
  minMs: 0,
  maxMs: 3 * ms,
});
const NASTY = 'a "<b>&\\';
const MAP: ProcessMap = {
  cases: 10,
  events: 31,
  variants: 3,
  activities: { new: 10, [NASTY]: 12, done: 9 },
  edges: [edge('new', NASTY, 10, 60_000), edge(NASTY, 'done', 9, 1_000), edge(NASTY, NASTY, 2, 5)],
  start: { new: 10 },
  end: { done: 9, [NASTY]: 1 },
  waiting: { [NASTY]: 1 },
  durations: { medianMs: 1, p95Ms: 1, meanMs: 1, minMs: 1, maxMs: 1 },
  rework: {},
};

/** Texts between tags, so that what is read is what a reader of XML reads. */
const texts = (picture: string) =>
  [...picture.matchAll(/<text[^>]*>(?:<title>[^<]*<\/title>)?([^<]*)<\/text>/g)].map(([, text]) => text as string);

it('draws a map: activities, how often and how fast, what is slow, where cases stand', () => {
  const picture = mapSvg('flow', MAP);
  const told = texts(picture);
  expect(told).toEqual(expect.arrayContaining(['new', 'done', 'start', 'end', '10 · 1.0 min', '9 · 1.0 s', '2 · 5.0 ms']));
  expect(told).toContain('a &quot;&lt;b&gt;&amp;\\');
  expect(told).toContain('12 · 1 wait here');
  // The case that stands has not ended: nothing leads from there to the end.
  expect(told.filter((text) => text === '9')).toHaveLength(2);
  expect(picture.match(/class="edge slow"/g)).toHaveLength(1);
  // Every tag is closed, so it is XML; and it holds no number that is none.
  const open = picture.match(/<[a-z](?:[^>]*[^/])?>/g) ?? [];
  expect(picture.match(/<\/[a-z]+>/g)).toHaveLength(open.length);
  expect(picture).not.toMatch(/NaN|undefined|Infinity/);
});

it('draws a map without a case', () => {
  const empty = { ...MAP, cases: 0, events: 0, activities: {}, edges: [], start: {}, end: {}, waiting: {} };
  expect(mapSvg('flow', empty)).toContain('0 cases');
  expect(mapDot('flow', empty)).toContain('digraph "flow"');
});

it('leaves out the most seldom steps of a map that nobody could read, and says so', () => {
  const names = Array.from({ length: 20 }, (_, i) => `s${i}`);
  const edges = names.flatMap((from) => names.map((to) => edge(from, to, 1, 1)));
  const picture = mapSvg('flow', { ...MAP, activities: Object.fromEntries(names.map((name) => [name, 20])), edges });
  expect(picture).toContain('250 seldom steps are left out');
});

it('writes a map for Graphviz, with every name quoted', () => {
  const dot = mapDot('flow', MAP);
  expect(dot).toContain('label="a \\"<b>&\\\\\\n12, 1 wait"');
  expect(dot).toContain('a0 -> a1 [label="10\\n1.0 min", penwidth=5.0, color=orangered]');
  expect(dot.split('->')).toHaveLength(6);
});

it('tells spans with about two digits', () => {
  expect([0, 999, 59_999, 90_000, 36_000_000, 90_000_000].map(durationText)).toEqual([
    '0.0 ms',
    '999 ms',
    '60 s',
    '1.5 min',
    '10 h',
    '1.0 d',
  ]);
});
