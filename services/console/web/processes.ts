import { count, duration } from './format.js';
import { type Column, LiveTable } from './table.js';
import { tokenHeaders } from './stream.js';

/** A process is asked for this often while the page is seen: a map counts its whole history. */
const ASK_MS = 5_000;
/** What is not as usual is learned anew from all events: it is asked for less often. */
const WRONG_ASK_MS = 15_000;
const CASES_SHOWN = 12;
const VARIANTS_SHOWN = 8;
const WRONG_SHOWN = 10;
/** Cases that are counted, of each kind. */
const WRONG_COUNTED = 500;

interface Bottleneck {
  readonly activity: string;
  readonly share: number;
  readonly after: { readonly medianMs: number; readonly p95Ms: number } | null;
  readonly waiting: { readonly cases: number; readonly longestMs: number | null };
  readonly rework: { readonly repeats: number };
}

interface Variant {
  readonly activities: readonly string[];
  readonly cases: number;
  readonly share: number;
  readonly medianMs: number;
}

interface Case {
  readonly case: string;
  readonly events: number;
  readonly first: string;
  readonly activity: string;
  readonly durationMs: number;
  readonly open: boolean;
  readonly waitingMs: number | null;
}

/** What is wrong with a case. */
interface Wrong {
  readonly case: string;
  readonly rule: string;
  readonly severity: string;
  readonly at: string;
  readonly what: string;
}

interface JudgedCase {
  readonly case: string;
  readonly violations: readonly {
    readonly rule: string;
    readonly severity: string;
    readonly level: string;
    readonly at: string;
    readonly event: { readonly activity: string; readonly object: string; readonly key: string };
  }[];
}

interface FoundCase {
  readonly case: string;
  readonly findings: readonly {
    readonly rule: string;
    readonly severity: string;
    readonly verdict: string;
    readonly at: string;
    readonly reason: string;
  }[];
}

interface TimelineEvent {
  readonly at: string;
  readonly activity: string;
  readonly object: string;
  readonly key: string;
  readonly before: string | null;
  readonly after: string | null;
  readonly source: string;
  readonly lsn: string;
  readonly ordinal: number;
}

interface Process {
  readonly name: string;
  readonly state: string;
  readonly root?: string;
}

interface Freshness {
  readonly completeTo: string | null;
}

const BOTTLENECKS: readonly Column<Bottleneck>[] = [
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

const VARIANTS: readonly Column<Variant>[] = [
  { label: 'Way', cell: ({ activities }) => ({ text: activities.join(' → ') }) },
  { label: 'Cases', cell: ({ cases, share }) => ({ text: `${count(cases)}, ${percent(share)}`, bar: share }) },
  { label: 'Half took', number: true, cell: ({ medianMs }) => ({ text: duration(medianMs) }) },
];

const CASES: readonly Column<Case>[] = [
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

const WRONG: readonly Column<Wrong>[] = [
  { label: 'Case', cell: (row) => ({ text: row.case }) },
  {
    label: 'Rule',
    cell: ({ rule, severity }) => ({ text: rule, tone: severity === 'critical' ? 'bad' : 'warn', form: 'badge' }),
  },
  { label: 'What happened', cell: ({ what }) => ({ text: what }) },
  { label: 'At', cell: ({ at }) => ({ text: clock(at) }) },
];

const TIMELINE: readonly Column<TimelineEvent>[] = [
  { label: 'Event', cell: ({ activity, object, key }) => ({ text: activity, note: `${object} ${key}` }) },
  { label: 'Committed', cell: ({ at }) => ({ text: clock(at) }) },
  { label: 'Before', cell: ({ before }) => ({ text: before ?? '–', tone: before === null ? 'quiet' : undefined }) },
  { label: 'After', cell: ({ after }) => ({ text: after ?? '–', tone: after === null ? 'quiet' : undefined }) },
  { label: 'Source', cell: ({ source, lsn, ordinal }) => ({ text: source, note: `${lsn}+${ordinal}` }) },
];

const byId = <Kind extends HTMLElement>(id: string) => document.getElementById(id) as Kind;
const percent = (share: number) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
const clock = (iso: string) => iso.slice(0, 23).replace('T', ' ');

/** The card of processes: where cases stand and lose time, the map, the ways they take, and each case's way. Hidden where there is no process. */
export class ProcessCard {
  readonly #place = byId('processes');
  readonly #choices = {
    process: byId<HTMLSelectElement>('process-name'),
    period: byId<HTMLSelectElement>('process-period'),
    share: byId<HTMLSelectElement>('process-share'),
    state: byId<HTMLSelectElement>('case-state'),
    sort: byId<HTMLSelectElement>('case-sort'),
  };
  readonly #bottlenecks = tableOf(
    byId('process-bottlenecks'),
    BOTTLENECKS,
    ({ activity }) => activity,
    'Nothing has happened yet.',
  );
  readonly #variants = tableOf(byId('process-variants'), VARIANTS, ({ activities }) => activities.join('\n'), 'No case yet.');
  readonly #cases = tableOf(byId('process-cases'), CASES, (row) => row.case, 'No such case.');
  readonly #wrong = tableOf(byId('process-wrong'), WRONG, wrongKey, 'Nothing is wrong.');
  readonly #timeline = tableOf(
    byId('case-timeline'),
    TIMELINE,
    (row) => `${row.source} ${row.lsn} ${row.ordinal} ${row.activity}`,
    'Nothing is known of it.',
  );
  #processes: readonly Process[] = [];
  #picture = '';
  #case: string | null = null;
  #asking = 0;
  /** Of which process it was asked what is wrong, and when. */
  #wrongAsked = { name: '', at: -Infinity };

  constructor() {
    for (const choice of Object.values(this.#choices)) choice.addEventListener('change', () => void this.#refreshed());
    for (const table of ['process-cases', 'process-wrong'])
      byId(table).addEventListener('click', ({ target }) => {
        const row = (target as HTMLElement).closest<HTMLElement>('tr[data-key]');
        if (row) this.#open((row.dataset['key'] as string).split('\n')[0] as string);
      });
    byId<HTMLFormElement>('case-ask').addEventListener('submit', (event) => {
      event.preventDefault();
      const key = byId<HTMLInputElement>('case-key').value.trim();
      if (key !== '') this.#open(key);
    });
  }

  /** Asks again and again, for ever. */
  async follow(): Promise<never> {
    for (;;) {
      if (!document.hidden) await this.#refreshed();
      await new Promise((resolve) => setTimeout(resolve, ASK_MS));
    }
  }

  #refreshed(): Promise<void> {
    return this.#refresh().catch(() => set(byId('process-told'), 'The processes cannot be asked at the moment.'));
  }

  get #process(): Process | undefined {
    return this.#processes.find(({ name }) => name === this.#choices.process.value);
  }

  async #refresh(): Promise<void> {
    const asking = ++this.#asking;
    const processes = await ask<readonly Process[]>('processes');
    this.#place.hidden = processes.length === 0;
    const names = processes.map(({ name }) => name);
    if (names.join('\n') !== this.#processes.map(({ name }) => name).join('\n')) fill(this.#choices.process, names);
    this.#processes = processes;
    const process = this.#process;
    if (!process) return;
    if (process.state !== 'running') return set(byId('process-told'), 'No worker answers for this process yet.');
    const within = this.#period();
    const path = `processes/${encodeURIComponent(process.name)}`;
    const [picture, spent, ways] = await Promise.all([
      askText(`${path}/map?format=svg&min_share=${this.#choices.share.value}${within}`),
      ask<{ activities: readonly Bottleneck[]; freshness: Freshness }>(`${path}/bottlenecks?${within.slice(1)}`),
      ask<{ variants: readonly Variant[] }>(`${path}/variants?limit=${VARIANTS_SHOWN}${within}`),
    ]);
    // Another choice was made meanwhile: its answer counts.
    if (asking !== this.#asking) return;
    this.#draw(picture);
    this.#bottlenecks.show(spent.activities.filter(({ share }) => share >= 0.001));
    this.#variants.show(ways.variants);
    const { completeTo } = spent.freshness;
    set(byId('process-told'), headline(spent.activities));
    set(byId('process-fresh'), `Complete to ${completeTo === null ? 'nothing yet' : clock(completeTo)}.`);
    await this.#showCases(path, within);
    await this.#showWrong(process.name, path);
    if (this.#case !== null) await this.#showCase(process, this.#case);
  }

  /** A token that may only look at counts is refused the cases. */
  async #showCases(path: string, within: string): Promise<void> {
    const { state, sort } = this.#choices;
    const wanted = state.value === '' ? '' : `&ended=${state.value}`;
    try {
      const { cases } = await ask<{ cases: readonly Case[] }>(
        `${path}/cases?limit=${CASES_SHOWN}&sort=${sort.value}${wanted}${within}`,
      );
      this.#cases.show(cases);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      byId('process-cases').hidden = true;
      set(byId('case-note'), 'Cases are shown to analysts: this token may only look at counts.');
    }
  }

  /** Which rule was broken by which case, and what is stuck or missing. Rules are of all the time. */
  async #showWrong(name: string, path: string): Promise<void> {
    const at = performance.now();
    if (this.#wrongAsked.name === name && at - this.#wrongAsked.at < WRONG_ASK_MS) return;
    this.#wrongAsked = { name, at };
    const [broken, stuck, missing] = await Promise.all([
      // A process without rules has no cases that broke one.
      optional<{ cases: readonly JudgedCase[] }>(`${path}/cases?state=violated&limit=${WRONG_COUNTED}`),
      optional<{ cases: readonly FoundCase[] }>(`${path}/cases?state=stuck&limit=${WRONG_COUNTED}`),
      optional<{ cases: readonly FoundCase[] }>(`${path}/cases?state=missing&limit=${WRONG_COUNTED}`),
    ]);
    if (this.#process?.name !== name) return;
    const wrong = [...brokenIn(broken?.cases ?? []), ...foundIn([...(stuck?.cases ?? []), ...(missing?.cases ?? [])])];
    wrong.sort((a, b) => (a.at < b.at ? 1 : -1));
    byId('process-wrong-place').hidden = wrong.length === 0;
    byId('process-wrong-told').hidden = wrong.length === 0;
    set(byId('process-wrong-told'), wrongHeadline(wrong));
    this.#wrong.show(wrong.slice(0, WRONG_SHOWN));
  }

  #open(key: string): void {
    this.#case = key;
    const process = this.#process;
    if (process)
      void this.#showCase(process, key).catch(() =>
        set(byId('case-told'), `Nothing is known of ${process.root ?? 'case'} ${key}.`),
      );
  }

  async #showCase({ name, root = '' }: Process, key: string): Promise<void> {
    byId('case-way').hidden = false;
    set(byId('case-title'), `${root} ${key}`);
    const path = `objects/${encodeURIComponent(root)}/${encodeURIComponent(key)}/timeline?process=${encodeURIComponent(name)}&limit=200`;
    const { events, state } = await ask<{ events: readonly TimelineEvent[]; state: string | null }>(path);
    if (this.#case !== key) return;
    set(byId('case-told'), `${count(events.length)} events${state === null ? '' : `; it is ${state}`}.`);
    this.#timeline.show(events);
  }

  #period(): string {
    const minutes = Number(this.#choices.period.value);
    return minutes === 0 ? '' : `&from=${new Date(Date.now() - minutes * 60_000).toISOString()}`;
  }

  /** The server's picture, coloured by the page's own sheet. */
  #draw(text: string): void {
    if (text === this.#picture) return;
    this.#picture = text;
    // The policy of the page refuses its colours, and already complains when they are parsed.
    const plain = text.replace(/<style>[^<]*<\/style>/, '');
    const picture = new DOMParser().parseFromString(plain, 'image/svg+xml').documentElement;
    byId('process-map').replaceChildren(document.importNode(picture, true));
  }
}

function brokenIn(cases: readonly JudgedCase[]): Wrong[] {
  return cases.flatMap(({ case: key, violations }) =>
    violations
      .filter(({ level }) => level === 'violation')
      .map(({ rule, severity, at, event }) => {
        // Of a deadline it is the event that something should have followed.
        const how = rule.startsWith('sla.') ? 'overdue after' : 'broken with';
        return { case: key, rule, severity, at, what: `${how} “${event.activity}” of ${event.object} ${event.key}` };
      }),
  );
}

function foundIn(cases: readonly FoundCase[]): Wrong[] {
  return cases.flatMap(({ case: key, findings }) =>
    findings
      .filter(({ verdict }) => verdict === 'found')
      .map(({ rule, severity, at, reason }) => ({ case: key, rule, severity, at, what: reason })),
  );
}

const wrongKey = ({ case: key, rule, at }: Wrong) => `${key}\n${rule}\n${at}`;

/** How many cases broke which rule, the most first, and the newest of them. */
function wrongHeadline(wrong: readonly Wrong[]): string {
  const cases = new Map<string, Set<string>>();
  for (const { rule, case: key } of wrong) cases.set(rule, (cases.get(rule) ?? new Set()).add(key));
  const rules = [...cases].sort((a, b) => b[1].size - a[1].size);
  const told = rules.slice(0, 4).map(([rule, own]) => {
    const newest = wrong.find((one) => one.rule === rule);
    return `${rule} in ${count(own.size)}${own.size >= WRONG_COUNTED ? ' or more' : ''} (newest: ${newest?.case ?? ''})`;
  });
  return `Not as it should be: ${told.join(', ')}${rules.length > 4 ? ', and more' : ''}.`;
}

/** The one sentence for somebody who has never seen the process. */
function headline(activities: readonly Bottleneck[]): string {
  const [first] = activities;
  if (!first || first.share === 0) return 'Nothing has happened yet.';
  const standing = activities.toSorted((a, b) => b.waiting.cases - a.waiting.cases)[0];
  const most = `Most time passes after “${first.activity}”: ${percent(first.share)} of all${first.after ? `, half go on within ${duration(first.after.medianMs)}, 5 % take longer than ${duration(first.after.p95Ms)}` : ''}.`;
  if (!standing || standing.waiting.cases === 0) return most;
  return `${most} Most cases stand after “${standing.activity}”: ${count(standing.waiting.cases)}, the longest for ${duration(standing.waiting.longestMs)}.`;
}

class Refused extends Error {}

/** What cannot be asked, by this token or of this process, is not there. */
async function optional<Answer>(path: string): Promise<Answer | null> {
  const response = await fetch(`/v1/${path}`, { headers: tokenHeaders() });
  if (response.status === 403 || response.status === 400) return null;
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json() as Promise<Answer>;
}

async function ask<Answer>(path: string): Promise<Answer> {
  return (await asked(path)).json() as Promise<Answer>;
}

async function askText(path: string): Promise<string> {
  return (await asked(path)).text();
}

async function asked(path: string): Promise<Response> {
  const response = await fetch(`/v1/${path}`, { headers: tokenHeaders() });
  if (response.status === 403) throw new Refused(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response;
}

function tableOf<Row>(
  place: HTMLElement,
  columns: readonly Column<Row>[],
  key: (row: Row) => string,
  empty: string,
): LiveTable<Row> {
  return new LiveTable(place as HTMLTableElement, columns, { key, empty });
}

function fill(select: HTMLSelectElement, names: readonly string[]): void {
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

function set(place: HTMLElement, text: string): void {
  if (place.textContent !== text) place.textContent = text;
}
