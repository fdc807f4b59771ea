import type {
  ActorStateView,
  ChangelogView,
  LeaseView,
  ProjectionView,
  SlotView,
  SourceView,
  StatusView,
  WorkerView,
} from '../src/wire.js';
import { bytes, count, duration, orMissing, rate } from './format.js';
import { type Cell, type Column, LiveTable, type Tone } from './table.js';

/** Slower than this and the figure is coloured. */
const LAG_WARN_MS = 10_000;
const LAG_BAD_MS = 60_000;
const RETAINED_WARN_BYTES = 1024 ** 3;
/** A lease is renewed every three seconds, and taken by others after ten. */
const RENEWED_WARN_MS = 6_000;

const STATE_TONES: Record<ActorStateView, Tone> = {
  running: 'good',
  starting: 'quiet',
  draining: 'quiet',
  stopped: 'quiet',
  waiting: 'warn',
  failed: 'bad',
  unassigned: 'warn',
};

export function lagTone(lagMs: number | null): Tone | undefined {
  if (lagMs === null || lagMs < LAG_WARN_MS) return undefined;
  return lagMs < LAG_BAD_MS ? 'warn' : 'bad';
}

export function retainedTone(slot: SlotView | null): Tone | undefined {
  if (slot?.walStatus === 'lost' || slot?.walStatus === 'unreserved') return 'bad';
  return (slot?.retainedBytes ?? 0) > RETAINED_WARN_BYTES ? 'warn' : undefined;
}

function stateCell(row: { readonly state: ActorStateView; readonly restarts: number }): Cell {
  const note = row.restarts > 0 ? `${row.restarts} restart${row.restarts === 1 ? '' : 's'}` : undefined;
  return { text: row.state, tone: STATE_TONES[row.state], form: 'badge', note };
}

function lagCell(lagMs: number | null, note?: string): Cell {
  return { text: duration(lagMs), tone: lagTone(lagMs), note };
}

function slotCell({ slot }: SourceView): Cell {
  if (!slot) return { text: '–' };
  const safe = slot.safeBytes === null ? '' : `, ${bytes(slot.safeBytes)} to spare`;
  const status = slot.walStatus === null ? undefined : `${slot.walStatus}${safe}`;
  return { text: bytes(slot.retainedBytes), tone: retainedTone(slot), note: status, noteTone: retainedTone(slot) };
}

function snapshotCell({ snapshot, tables }: SourceView): Cell {
  if (!snapshot) return { text: tables === null ? 'none running' : `${count(tables)} tables captured`, tone: 'quiet' };
  const of = snapshot.tablesTotal === null ? '' : `table ${(snapshot.tablesDone ?? 0) + 1} of ${snapshot.tablesTotal}, `;
  const percent = snapshot.fraction === null ? '' : `${Math.floor(snapshot.fraction * 100)} %, `;
  return {
    text: snapshot.table ?? 'reading',
    bar: snapshot.fraction ?? undefined,
    note: `${of}${percent}${count(snapshot.rows)} rows`,
  };
}

const SOURCES: readonly Column<SourceView>[] = [
  { label: 'Source', cell: (row) => ({ text: row.name }) },
  { label: 'State', cell: stateCell },
  {
    label: 'Changes/s',
    number: true,
    cell: (row) => ({ text: rate(row.changesPerSecond), note: `${count(row.changes)} in all` }),
  },
  { label: 'Lag', number: true, cell: (row) => lagCell(row.lagMs) },
  {
    label: 'Position',
    cell: (row) => ({
      text: orMissing(row.lsn),
      form: 'code',
      note: row.confirmedLsn ? `confirmed ${row.confirmedLsn}` : undefined,
    }),
  },
  { label: 'WAL kept by the slot', cell: slotCell },
  { label: 'Snapshot', cell: snapshotCell },
];

const PROJECTIONS: readonly Column<ProjectionView>[] = [
  { label: 'Projection', cell: (row) => ({ text: row.name }) },
  { label: 'Kind', cell: (row) => ({ text: row.kind }) },
  { label: 'State', cell: stateCell },
  {
    label: 'Applied/s',
    number: true,
    cell: (row) => ({ text: rate(row.appliedPerSecond), note: `${count(row.applied)} in all` }),
  },
  {
    label: 'Lag',
    number: true,
    cell: (row) => lagCell(row.lagMs, row.lagMessages ? `${count(row.lagMessages)} behind` : undefined),
  },
  {
    label: 'Position',
    cell: (row) => ({
      text: orMissing(row.position?.lsn ?? null),
      form: 'code',
      note: row.position ? `message ${count(row.position.seq)}` : undefined,
    }),
  },
  { label: 'Worker', cell: (row) => ({ text: orMissing(row.worker), tone: 'quiet' }) },
];

const CHANGELOGS: readonly Column<ChangelogView>[] = [
  { label: 'Changelog', cell: (row) => ({ text: row.name }) },
  { label: 'Messages', number: true, cell: (row) => ({ text: count(row.messages) }) },
  { label: 'Size', number: true, cell: (row) => ({ text: bytes(row.bytes) }) },
];

const WORKERS: readonly Column<WorkerView>[] = [
  { label: 'Worker', cell: (row) => ({ text: row.worker, note: row.services.join(', ') }) },
  {
    label: 'State',
    cell: (row) => (row.alive ? { text: 'alive', tone: 'good', form: 'badge' } : { text: 'silent', tone: 'bad', form: 'badge' }),
  },
  {
    label: 'Actors',
    number: true,
    cell: (row) => ({ text: count(row.actors), note: row.failed > 0 ? `${row.failed} failed` : undefined, noteTone: 'bad' }),
  },
  { label: 'Capacity', number: true, cell: (row) => ({ text: count(row.capacity), tone: 'quiet' }) },
  { label: 'Labels', cell: (row) => ({ text: labelText(row.labels), tone: 'quiet' }) },
  { label: 'Took over', number: true, cell: (row) => ({ text: count(row.takeovers) }) },
];

const LEASES: readonly Column<LeaseView>[] = [
  { label: 'Lease', cell: (row) => ({ text: row.assignment }) },
  { label: 'Worker', cell: (row) => ({ text: row.worker }) },
  { label: 'Epoch', number: true, cell: (row) => ({ text: count(row.epoch) }) },
  { label: 'Held', number: true, cell: (row) => ({ text: duration(row.heldMs) }) },
  {
    label: 'Renewed',
    number: true,
    cell: (row) => ({ text: `${duration(row.renewedMs)} ago`, tone: row.renewedMs > RENEWED_WARN_MS ? 'warn' : undefined }),
  },
];

function labelText(labels: WorkerView['labels']): string {
  if (labels === null) return 'any';
  const texts = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  return texts.length === 0 ? 'none' : texts.join(', ');
}

/** All tables of the page. @returns a function that shows a status in them */
export function makeTables(): (status: StatusView) => void {
  const named = { key: (row: { readonly name: string }) => row.name };
  const sources = new LiveTable(tableOf('sources'), SOURCES, { ...named, empty: 'No source is configured.' });
  const projections = new LiveTable(tableOf('projections'), PROJECTIONS, { ...named, empty: 'No projection runs yet.' });
  const changelogs = new LiveTable(tableOf('changelogs'), CHANGELOGS, { ...named, empty: 'No changelog yet.' });
  const workers = new LiveTable(tableOf('workers'), WORKERS, { key: (row) => row.worker, empty: 'No worker has spoken yet.' });
  const leases = new LiveTable(tableOf('leases'), LEASES, { key: (row) => row.assignment, empty: 'Nothing is led yet.' });
  return (status) => {
    sources.show(status.sources);
    projections.show(status.projections);
    changelogs.show(status.changelogs);
    workers.show(status.workers);
    leases.show(status.leases);
  };
}

function tableOf(id: string): HTMLTableElement {
  return document.getElementById(id) as HTMLTableElement;
}
