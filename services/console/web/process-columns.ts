import { clock, count, duration, percent } from './format.js';
import type { Column } from './table.js';

export interface Bottleneck {
  readonly activity: string;
  readonly share: number;
  readonly after: { readonly medianMs: number; readonly p95Ms: number } | null;
  readonly waiting: { readonly cases: number; readonly longestMs: number | null };
  readonly rework: { readonly repeats: number };
}

export interface Variant {
  readonly activities: readonly string[];
  readonly cases: number;
  readonly share: number;
  readonly medianMs: number;
}

export interface Case {
  readonly case: string;
  readonly events: number;
  readonly first: string;
  readonly activity: string;
  readonly durationMs: number;
  readonly open: boolean;
  readonly waitingMs: number | null;
}

export const BOTTLENECKS: readonly Column<Bottleneck>[] = [
  {
    label: 'After',
    cell: ({ activity, rework }) => ({
      text: activity,
      ...(rework.repeats > 0 ? { note: `happened again ${count(rework.repeats)} times` } : {}),
    }),
  },
  { label: 'Of all time', cell: ({ share }) => ({ text: percent(share), bar: share }) },
  {
    label: 'Until the next',
    number: true,
    cell: ({ after }) => ({
      text: after ? duration(after.medianMs) : '–',
      ...(after ? { note: `95 % within ${duration(after.p95Ms)}` } : {}),
    }),
  },
  {
    label: 'Wait there now',
    number: true,
    cell: ({ waiting }) => ({
      text: count(waiting.cases),
      ...(waiting.longestMs === null ? {} : { note: `longest ${duration(waiting.longestMs)}` }),
    }),
  },
];

export const VARIANTS: readonly Column<Variant>[] = [
  { label: 'Way', cell: ({ activities }) => ({ text: activities.join(' → ') }) },
  { label: 'Cases', cell: ({ cases, share }) => ({ text: `${count(cases)}, ${percent(share)}`, bar: share }) },
  { label: 'Half took', number: true, cell: ({ medianMs }) => ({ text: duration(medianMs) }) },
];

export const CASES: readonly Column<Case>[] = [
  { label: 'Case', cell: (row) => ({ text: row.case, note: `${count(row.events)} events` }) },
  { label: 'Last event', cell: ({ activity, open }) => ({ text: activity, note: open ? 'goes on' : 'ended' }) },
  {
    label: 'Waits for',
    number: true,
    cell: ({ waitingMs }) => ({
      text: waitingMs === null ? '–' : duration(waitingMs),
      tone: waitingMs === null ? 'quiet' : undefined,
    }),
  },
  { label: 'First to last', number: true, cell: ({ durationMs, first }) => ({ text: duration(durationMs), note: clock(first) }) },
];
