import { askPerhaps } from './asking.js';
import { byId, element, setText } from './element.js';
import { clock, count, duration, words } from './format.js';
import { type Problem, toneOf } from './problems.js';
import { type Column, LiveTable } from './table.js';

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

/** An event, with the time since the one before it and what it broke. */
interface Shown extends TimelineEvent {
  readonly sinceMs: number | null;
  readonly broke: readonly string[];
}

interface Judged {
  readonly state?: string;
  readonly violations?: readonly {
    readonly rule: string;
    readonly severity: string;
    readonly level: string;
    readonly at: string;
    readonly event: { readonly activity: string; readonly source: string; readonly lsn: string; readonly ordinal: number };
  }[];
  readonly owed?: readonly { readonly rule: string; readonly due: string | null; readonly reason: string | null }[];
}

const EVENTS_MAX = 200;

const TIMELINE: readonly Column<Shown>[] = [
  {
    label: 'Event',
    cell: ({ activity, object, key, broke }) => ({
      text: activity,
      tone: broke.length > 0 ? 'bad' : undefined,
      note: broke.length > 0 ? `${object} ${key} · ${broke.join(', ')}` : `${object} ${key}`,
      noteTone: broke.length > 0 ? 'bad' : undefined,
    }),
  },
  {
    label: 'When',
    cell: ({ at, sinceMs }) => ({ text: clock(at), note: sinceMs === null ? 'the first' : `+${duration(sinceMs)}` }),
  },
  { label: 'Before', cell: ({ before }) => ({ text: before ?? '–', tone: before === null ? 'quiet' : undefined }) },
  { label: 'After', cell: ({ after }) => ({ text: after ?? '–', tone: after === null ? 'quiet' : undefined }) },
  { label: 'Database', cell: ({ source, lsn, ordinal }) => ({ text: source, note: `${lsn}+${ordinal}` }) },
];

/** One case: what is wrong with it, and everything that happened to it, in all databases. */
export class CaseDrawer {
  readonly #dialog = byId<HTMLDialogElement>('case');
  readonly #timeline = new LiveTable(byId<HTMLTableElement>('case-timeline'), TIMELINE, {
    key: (row) => `${row.source} ${row.lsn} ${row.ordinal} ${row.activity}`,
    empty: 'Reading …',
  });
  #shown: { readonly process: string; readonly root: string; readonly key: string } | null = null;

  /** @param closed somebody has seen enough of it */
  constructor(closed: () => void) {
    this.#dialog.addEventListener('close', () => {
      if (this.#shown) closed();
      this.#shown = null;
    });
    // Beside it is the dialog itself; inside is something of it.
    this.#dialog.addEventListener('click', ({ target }) => target === this.#dialog && this.#dialog.close());
  }

  open(process: { readonly name: string; readonly root: string }, key: string): void {
    if (this.#shown?.process === process.name && this.#shown.key === key) return;
    this.#shown = { process: process.name, root: process.root, key };
    setText(byId('case-title'), `${words(process.root)} ${key}`);
    setText(byId('case-told'), 'Reading what happened …');
    byId('case-problems').replaceChildren();
    this.#timeline.show([]);
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  close(): void {
    this.#shown = null;
    if (this.#dialog.open) this.#dialog.close();
  }

  /** @param problems of the process, as far as they are known */
  async refresh(problems: readonly Problem[]): Promise<void> {
    const shown = this.#shown;
    if (!shown) return;
    const [process, root, key] = [shown.process, shown.root, shown.key].map(encodeURIComponent);
    const [told, judged] = await Promise.all([
      askPerhaps<{ events: readonly TimelineEvent[]; state: string | null }>(
        `objects/${root}/${key}/timeline?process=${process}&limit=${EVENTS_MAX}`,
      ),
      askPerhaps<{ cases: readonly Judged[] }>(`processes/${process}/cases?case=${key}`),
    ]);
    if (this.#shown !== shown) return;
    if (!told)
      return setText(byId('case-told'), `Nothing is known of ${words(shown.root)} ${shown.key}, or this token may not see it.`);
    const [verdict = {}] = judged?.cases ?? [];
    setText(byId('case-told'), sentence(told, verdict));
    this.#showProblems(shown.key, verdict, problems);
    this.#timeline.show(withWhatBroke(told.events, verdict));
  }

  #showProblems(key: string, { violations = [], owed = [] }: Judged, problems: readonly Problem[]): void {
    const wordsOf = (rule: string) => problems.find((one) => one.rule === rule)?.words ?? '';
    const broken = violations.map(({ rule, severity, level, at }) => ({
      tone: level === 'warning' ? 'quiet' : toneOf(severity),
      title: `${rule}${level === 'warning' ? ' will soon be broken' : ` broken at ${clock(at)}`}`,
      text: wordsOf(rule),
    }));
    const unusual = problems
      .filter(({ kind }) => kind !== 'rule' && kind !== 'sla')
      .flatMap(({ rule, severity, newest }) =>
        newest
          .filter((one) => one.case === key)
          .map(({ at, reason }) => ({ tone: toneOf(severity), title: `${rule} since ${clock(at)}`, text: reason })),
      );
    const waited = owed
      .filter(({ rule }) => !violations.some((one) => one.rule === rule))
      .map(({ rule, due, reason }) => ({
        tone: 'quiet',
        title: `${rule} ${due === null ? 'not fulfilled yet' : `due at ${clock(due)}`}`,
        text: reason === null ? '' : `not known yet: ${reason}`,
      }));
    byId('case-problems').replaceChildren(
      ...[...broken, ...unusual, ...waited].map(({ tone, title, text }) => {
        const row = element('li', '', 'problem');
        row.dataset['tone'] = tone;
        row.append(element('b', title), ...(text === '' ? [] : [element('p', text)]));
        return row;
      }),
    );
  }
}

function sentence(
  { events, state }: { events: readonly TimelineEvent[]; state: string | null },
  { state: stands }: Judged,
): string {
  const databases = new Set(events.map(({ source }) => source)).size;
  const how = stands === 'done' ? 'It is done' : stands === 'open' ? 'It goes on' : null;
  const told = [how, state === null ? null : how === null ? `It is ${state}` : state].filter((one) => one !== null).join(', ');
  const where = databases > 1 ? ` in ${count(databases)} databases` : '';
  const some = events.length >= EVENTS_MAX ? `The first ${count(EVENTS_MAX)} events` : `${count(events.length)} events`;
  return `${told === '' ? '' : `${told}. `}${some}${where}.`;
}

/** What a deadline is about is the event that it ran from. */
function withWhatBroke(events: readonly TimelineEvent[], { violations = [] }: Judged): Shown[] {
  return events.map((event, i) => ({
    ...event,
    sinceMs: i === 0 ? null : Math.max(0, Date.parse(event.at) - Date.parse(events[i - 1]?.at ?? event.at)),
    broke: violations
      .filter(
        ({ level, event: own }) =>
          level === 'violation' &&
          own.source === event.source &&
          own.ordinal === event.ordinal &&
          own.activity === event.activity &&
          written(own.lsn) === event.lsn,
      )
      .map(({ rule }) => rule),
  }));
}

/** An LSN as PostgreSQL writes it. */
function written(lsn: string): string {
  const whole = BigInt(lsn);
  return `${(whole >> 32n).toString(16)}/${(whole & 0xffffffffn).toString(16)}`.toUpperCase();
}
