import { ask, askPerhaps, askText, Away, Refused } from './asking.js';
import { CaseDrawer } from './case-drawer.js';
import { byId, setText } from './element.js';
import { capital, clock, count, duration, many, percent, plural, words } from './format.js';
import { BOTTLENECKS, type Bottleneck, type Case, CASES, type Variant, VARIANTS } from './process-columns.js';
import { type Problem, showProblems } from './problems.js';
import { type Column, LiveTable } from './table.js';
import { linkTo, type Place } from './views.js';

/** A process is asked for this often while it is seen, and seldomer where its answers take long: a map counts its whole history. */
const ASK_MS = 5_000;
/** Answers take a quarter of the time, at most. */
const ASK_SHARE = 3;
/** What is not as usual is learned anew from all events: it is asked for so much seldomer than it takes. */
const PROBLEMS_ASK_SHARE = 10;
const CASES_SHOWN = 12;
const VARIANTS_SHOWN = 8;
/** Cases that are linked of each problem. */
const NAMED = 12;
/** Older than this and a reader is told. */
const STALE_MS = 30_000;

interface Process {
  readonly name: string;
  readonly kind: 'declared' | 'imported';
  readonly state: string;
  readonly root?: string;
}

interface Freshness {
  readonly completeTo: string | null;
  readonly sources?: Readonly<Record<string, { readonly completeTo: string | null }>>;
}

/** The page of processes: what is wrong and in which cases, where cases stand and lose time, the map, the ways they take, and each case's way. */
export class ProcessPage {
  readonly #choices = {
    process: byId<HTMLSelectElement>('process-name'),
    period: byId<HTMLSelectElement>('process-period'),
    share: byId<HTMLSelectElement>('process-share'),
    state: byId<HTMLSelectElement>('case-state'),
    sort: byId<HTMLSelectElement>('case-sort'),
  };
  readonly #bottlenecks = tableOf('process-bottlenecks', BOTTLENECKS, ({ activity }) => activity);
  readonly #variants = tableOf('process-variants', VARIANTS, ({ activities }) => activities.join('\n'));
  readonly #cases = tableOf('process-cases', CASES, (row) => row.case);
  readonly #drawer = new CaseDrawer(() => this.#go());
  #processes: readonly Process[] = [];
  #problems: readonly Problem[] = [];
  #picture = '';
  #place: Place = { view: 'overview', rest: [] };
  #asking = 0;
  #wake = () => {};
  /** Of which process it was asked what is wrong, and from when on that is asked again. */
  #problemsAsked = { name: '', next: 0 };

  constructor() {
    const { process, ...others } = this.#choices;
    process.addEventListener('change', () => this.#go());
    for (const choice of Object.values(others)) choice.addEventListener('change', () => void this.#refreshed());
    byId('process-cases').addEventListener('click', ({ target }) => {
      const row = (target as HTMLElement).closest<HTMLElement>('tr[data-key]');
      if (row) this.#go(row.dataset['key'] as string);
    });
    byId<HTMLFormElement>('case-ask').addEventListener('submit', (event) => {
      event.preventDefault();
      const key = byId<HTMLInputElement>('case-key').value.trim();
      if (key !== '') this.#go(key);
    });
  }

  /** Somebody went there: `rest` is a process and a case of it. */
  show(place: Place): void {
    this.#place = place;
    if (place.view === 'processes') this.#wake();
    else this.#drawer.close();
  }

  /** Asks again and again, for ever, while somebody looks. */
  async follow(): Promise<never> {
    for (;;) {
      const began = performance.now();
      const seen = this.#place.view === 'processes' && !document.hidden;
      if (seen) await this.#refreshed();
      const pauseMs = seen ? Math.max(ASK_MS, ASK_SHARE * (performance.now() - began)) : ASK_MS;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, pauseMs);
      });
    }
  }

  /** To the chosen process, and perhaps a case of it. */
  #go(...rest: string[]): void {
    location.hash = linkTo('processes', this.#choices.process.value, ...rest);
  }

  async #refreshed(): Promise<void> {
    try {
      await this.#refresh();
    } catch (error) {
      // Whatever it is, what is shown is older than it looks.
      this.#stale(
        error instanceof Refused
          ? 'This token may not look at processes.'
          : 'The processes cannot be asked at the moment; what is shown is from before. Trying again.',
      );
    }
  }

  #stale(told: string): void {
    byId('processes').toggleAttribute('data-stale', true);
    setText(byId('process-fresh'), told);
    byId('process-fresh').dataset['tone'] = 'bad';
  }

  async #refresh(): Promise<void> {
    const asking = ++this.#asking;
    // Nothing happens in an imported log any more: it is asked by the command line and over HTTP.
    const processes = (await ask<readonly Process[]>('processes')).filter(({ kind }) => kind === 'declared');
    byId('processes').hidden = processes.length === 0;
    byId('processes-none').hidden = processes.length > 0;
    const names = processes.map(({ name }) => name);
    if (names.join('\n') !== this.#processes.map(({ name }) => name).join('\n')) fill(this.#choices.process, names);
    this.#processes = processes;
    const [wanted, key] = this.#place.rest;
    if (wanted !== undefined && names.includes(wanted)) this.#choices.process.value = wanted;
    const process = processes.find(({ name }) => name === this.#choices.process.value);
    if (!process) return;
    if (process.state !== 'running') throw new Away(process.name);
    const { name, root = '' } = process;
    if (key === undefined) this.#drawer.close();
    else this.#drawer.open({ name, root }, key);
    setText(byId('processes-title'), capital(words(name)));
    const path = `processes/${encodeURIComponent(name)}`;
    // The first answers are shown before the last is there: what is wrong comes before the map.
    await this.#showProblems({ name, root }, path);
    if (asking !== this.#asking) return;
    await Promise.all([
      this.#drawer.refresh(this.#problems),
      this.#showNumbers({ path, root, asking }),
      this.#showMap(path, asking),
    ]);
  }

  async #showProblems(process: { name: string; root: string }, path: string): Promise<void> {
    const at = performance.now();
    if (this.#problemsAsked.name === process.name && at < this.#problemsAsked.next) return;
    const told = await askPerhaps<{ problems: readonly Problem[]; learnedAt: string }>(`${path}/problems?limit=${NAMED}`);
    const now = performance.now();
    this.#problemsAsked = { name: process.name, next: now + PROBLEMS_ASK_SHARE * (now - at) };
    this.#problems = told?.problems ?? [];
    byId('problems').hidden = told === null;
    if (!told) return;
    showProblems(process, told.problems);
    setText(byId('problems-learned'), `What is stuck, missing or not as usual: as of ${clock(told.learnedAt)}.`);
  }

  async #showNumbers({ path, root, asking }: { path: string; root: string; asking: number }): Promise<void> {
    const within = this.#period();
    const [spent, ways] = await Promise.all([
      ask<{ activities: readonly Bottleneck[]; freshness: Freshness }>(`${path}/bottlenecks?${within.slice(1)}`),
      ask<{ variants: readonly Variant[] }>(`${path}/variants?limit=${VARIANTS_SHOWN}${within}`),
    ]);
    // Another choice was made meanwhile: its answer counts.
    if (asking !== this.#asking) return;
    this.#bottlenecks.show(spent.activities.filter(({ share }) => share >= 0.001));
    this.#variants.show(ways.variants);
    setText(byId('process-told'), headline(root, spent.activities));
    showFreshness(spent.freshness);
    await this.#showCases(path, within);
  }

  async #showMap(path: string, asking: number): Promise<void> {
    const text = await askText(`${path}/map?format=svg&min_share=${this.#choices.share.value}${this.#period()}`);
    if (asking === this.#asking) this.#draw(text);
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
      setText(byId('case-note'), 'Cases are shown to analysts: this token may only look at counts.');
    }
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

function showFreshness({ completeTo, sources = {} }: Freshness): void {
  byId('processes').toggleAttribute('data-stale', false);
  const place = byId('process-fresh');
  const oldMs = completeTo === null ? 0 : Date.now() - Date.parse(completeTo);
  const stale = oldMs > STALE_MS;
  place.dataset['tone'] = stale ? 'warn' : '';
  const [slowest] = Object.entries(sources).toSorted(([, a], [, b]) => ((a.completeTo ?? '') < (b.completeTo ?? '') ? -1 : 1));
  const why = stale && slowest ? `, ${duration(oldMs)} ago: of ${slowest[0]} nothing newer has been read yet` : '';
  setText(place, `Complete to ${completeTo === null ? 'nothing yet' : clock(completeTo)}${why}.`);
}

/** The one sentence for somebody who has never seen the process. */
function headline(root: string, activities: readonly Bottleneck[]): string {
  const [first] = activities;
  if (!first || first.share === 0) return 'Nothing has happened yet.';
  const under = activities.reduce((sum, { waiting }) => sum + waiting.cases, 0);
  const standing = activities.toSorted((a, b) => b.waiting.cases - a.waiting.cases)[0];
  const most = `Most time passes after “${first.activity}”: ${percent(first.share)} of all${first.after ? `, half go on within ${duration(first.after.medianMs)}, 5 % take longer than ${duration(first.after.p95Ms)}` : ''}.`;
  if (!standing || standing.waiting.cases === 0) return most;
  const { cases, longestMs } = standing.waiting;
  // A source that lags could still tell that they went on.
  const since = longestMs === null ? 'for how long is not known yet' : `the longest for ${duration(longestMs)}`;
  return `${many(under, root)} on the way. Most ${plural(words(root))} stand after “${standing.activity}”: ${count(cases)}, ${since}. ${most}`;
}

function tableOf<Row>(id: string, columns: readonly Column<Row>[], key: (row: Row) => string): LiveTable<Row> {
  return new LiveTable(byId<HTMLTableElement>(id), columns, { key, empty: 'None yet.' });
}

function fill(select: HTMLSelectElement, names: readonly string[]): void {
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}
