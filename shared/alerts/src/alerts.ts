import type { HookConfig } from '@tributary/config';
import { type Clock, Fault, type Kv } from '@tributary/core';
import { Backoff, Receiver } from '@tributary/projection';
import { AlertNote, type Letter, type Noted, type PastAlert } from './alert-note.ts';
import { type AlertCause, ALL_WELL, type AlertRule, type AlertState, type Notice, type Sight, step } from './alert-state.ts';

/** Alerts that are over are remembered, up to so many an owner. */
const PAST_MAX = 20;
/** Letters to receivers that are away; then the oldest go. */
const LETTERS_MAX = 200;

/** One alert, as a look saw it. */
export interface SeenAlert {
  readonly name: string;
  /** What it is about, as it is told of once it is over. */
  readonly when: string;
  readonly rule: AlertRule;
  /** Names of hooks. */
  readonly to: readonly string[];
  readonly sight: Sight;
  /** Longest time between two looks that counts as seen. */
  readonly gapMs: number;
  /** While it fires there is more of the same: it is told once more. */
  readonly news?: boolean;
  /** What receivers are told. */
  readonly body: (told: Told) => object;
}

/** What there is to tell of an alert; times in ISO 8601. */
export interface Told {
  readonly state: Notice;
  readonly cause: AlertCause | null;
  readonly raisedAt: string;
  readonly resolvedAt: string | null;
  readonly at: string;
  /** Who has taken note of it. */
  readonly acknowledgedBy: string | null;
}

export interface Look<Kept> {
  readonly seen: readonly SeenAlert[];
  /** Is there such an alert? One that there is no more is over. */
  readonly known: (alert: string) => boolean;
  readonly kept?: Kept;
}

interface Hook {
  readonly config: HookConfig;
  readonly receiver: Pick<Receiver, 'post'>;
  readonly backoff: Backoff;
}

export interface AlertsOptions {
  /** Of the note, such as `kpi-alerts.gmv`. */
  readonly key: string;
  /** Ids of letters begin with it. */
  readonly prefix: string;
  readonly hooks: readonly HookConfig[];
  readonly positions: Kv;
  readonly clock: Clock;
  readonly warn: (facts: object, message: string) => void;
  /** 0 … 1, for jitter. */
  readonly chance?: () => number;
  /** Who is asked; default: the hook's URL. */
  readonly receiverOf?: (hook: HookConfig) => Pick<Receiver, 'post'>;
}

/**
 * Keeps the alerts of one owner: a KPI, a process. What a look changes, and whom it is to be told, is one write (alert-note.ts); letters
 * are sent from there and struck off when they were taken. So a worker that dies anywhere loses no letter, and makes none twice; it sends one
 * again, as it was and under the id it had, when nobody could note that it was taken.
 */
export class Alerts<Kept = undefined> {
  readonly #options: AlertsOptions;
  readonly #note: AlertNote<Kept>;
  readonly #receivers: ReadonlyMap<string, Hook>;
  #noted: Noted<Kept> | null = null;
  #writing: Promise<void> = Promise.resolve();
  #wake: () => void = () => {};

  constructor(options: AlertsOptions) {
    const { key, hooks, positions, clock, chance = Math.random } = options;
    const { receiverOf = (hook) => new Receiver(hook.target, clock) } = options;
    this.#options = options;
    this.#note = new AlertNote(positions, key);
    this.#receivers = new Map(
      hooks.map((hook) => [
        hook.name,
        { config: hook, receiver: receiverOf(hook), backoff: new Backoff(hook.target.retries, chance) },
      ]),
    );
  }

  /** Takes the note over. @throws Fault as {@link AlertNote.open} */
  async open(): Promise<void> {
    this.#noted = await this.#note.open();
  }

  /** Takes in what a look found. @throws Fault `fenced` when another worker has opened the note since */
  async take(at: number, look: (noted: Noted<Kept>) => Look<Kept>): Promise<void> {
    await this.#change((noted) => {
      const { seen, known, kept } = look(noted);
      let next = kept === undefined ? noted : { ...noted, kept };
      for (const alert of seen) {
        const before = next.states[alert.name] ?? ALL_WELL;
        const { state, notice } = step(alert.rule, before, { ...alert, at });
        next = this.#stepped(next, { alert, before, state, notice, at });
      }
      for (const [name, before] of Object.entries(next.states)) if (!known(name)) next = forgotten(next, name, before, at);
      return next;
    });
  }

  /**
   * Somebody takes note of an alert: nobody is reminded of it, until there is more of it or it is raised again.
   * @param kept what the owner keeps then
   * @throws Fault `not_found` when there is no such alert, or it does not fire; `not_complete` before the note was read
   */
  async acknowledge(
    alert: string,
    { by, at, kept = (same) => same }: { by: string; at: number; kept?: (kept: Kept | undefined) => Kept | undefined },
  ): Promise<void> {
    if (!this.#noted) throw new Fault('not_complete', 'where the alerts stand is not read yet');
    await this.#change((noted) => {
      const state = noted.states[alert];
      if (state?.phase !== 'firing' && state?.phase !== 'keep_firing')
        throw new Fault('not_found', `there is no alert ${alert.slice(0, 128)} that fires`);
      const states = { ...noted.states, [alert]: { ...state, acknowledged: { by, at } } };
      const next = kept(noted.kept);
      return { ...noted, states, ...(next === undefined ? {} : { kept: next }) };
    });
  }

  /** Sends letters as they come, until `signal` aborts. */
  async deliver(signal: AbortSignal): Promise<void> {
    const receivers = [...this.#receivers.keys()];
    await Promise.all(receivers.map((hook) => this.#deliverTo(hook, signal)));
  }

  /** How many letters were not taken yet. */
  get lettersLeft(): number {
    return this.#noted?.letters.length ?? 0;
  }

  /** Where every alert stands that is not all well. */
  get states(): Readonly<Record<string, AlertState>> {
    return this.#noted?.states ?? {};
  }

  /** Alerts that are over, the newest last. */
  get past(): readonly PastAlert[] {
    return this.#noted?.past ?? [];
  }

  #stepped(noted: Noted<Kept>, { alert, before, state, notice, at }: Stepped): Noted<Kept> {
    const states = { ...noted.states, [alert.name]: state };
    if (notice === null) return { ...noted, states };
    const raisedAt = state.raisedAt ?? before.raisedAt ?? at;
    const resolved = notice === 'resolved';
    const iso = (ms: number) => new Date(ms).toISOString();
    const body = alert.body({
      state: notice,
      cause: state.cause ?? before.cause,
      raisedAt: iso(raisedAt),
      resolvedAt: resolved ? iso(at) : null,
      at: iso(at),
      acknowledgedBy: (state.acknowledged ?? before.acknowledged)?.by ?? null,
    });
    const id = `${this.#options.prefix}.${alert.name}.${raisedAt}.${resolved ? before.told + 1 : state.told}`;
    const letters = alert.to
      .filter((hook) => this.#receivers.has(hook))
      .map((hook) => ({ id, hook, body: JSON.stringify(body), attempts: 0 }));
    const past = resolved ? [...noted.past, { alert: alert.name, when: alert.when, raisedAt, resolvedAt: at }] : noted.past;
    return {
      ...noted,
      states,
      past: past.slice(-PAST_MAX),
      letters: bounded([...noted.letters, ...letters], this.#options.warn),
    };
  }

  /** One change of the note at a time; it is what is known only once it is written. */
  async #change(change: (noted: Noted<Kept>) => Noted<Kept>): Promise<void> {
    const before = this.#writing;
    const written = before.then(async () => {
      const noted = this.#noted as Noted<Kept>;
      const next = change(noted);
      if (worthNoting(noted, next)) await this.#note.write(next);
      this.#noted = next;
      if (next.letters.length === 0) return;
      const wake = this.#wake;
      this.#wake = () => {};
      wake();
    });
    this.#writing = written.catch(() => {});
    await written;
  }

  async #deliverTo(hook: string, signal: AbortSignal): Promise<void> {
    const { clock, warn } = this.#options;
    const { receiver, config, backoff } = this.#receivers.get(hook) as Hook;
    let away = 0;
    while (!signal.aborted) {
      const letter = this.#noted?.letters.find((one) => one.hook === hook);
      if (!letter) {
        await this.#changed(signal);
        continue;
      }
      const { id, body } = letter;
      const answer = await receiver.post({ id, contentType: 'application/json', headers: {}, body }, signal);
      // What was taken is struck off also by one that ends: it would come again otherwise.
      if (signal.aborted && answer.kind !== 'taken') return;
      const attempts = letter.attempts + 1;
      const over =
        answer.kind === 'taken' ||
        answer.kind === 'gone' ||
        (answer.kind === 'refused' && attempts >= config.target.retries.attempts);
      if (over) {
        if (answer.kind !== 'taken')
          warn({ hook, id, reason: answer.reason }, 'a receiver does not take an alert: it is given up');
        const struck = this.#change((noted) => ({ ...noted, letters: noted.letters.filter((one) => !isSame(one, letter)) }));
        // Whoever ends can do no more than try.
        await (signal.aborted ? struck.catch(() => {}) : struck);
        away = 0;
        continue;
      }
      // One that is away says nothing of the letter.
      if (answer.kind === 'refused')
        await this.#change((noted) => ({
          ...noted,
          letters: noted.letters.map((one) => (isSame(one, letter) ? { ...letter, attempts } : one)),
        }));
      away++;
      if (away === 1) warn({ hook, id, reason: answer.reason }, 'a receiver did not take an alert: it is sent again');
      await clock.sleep(backoff.ms(away, answer.retryAfterMs), signal).catch(() => {});
    }
  }

  #changed(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const others = this.#wake;
      const done = () => {
        signal.removeEventListener('abort', done);
        resolve();
      };
      this.#wake = () => {
        others();
        done();
      };
      signal.addEventListener('abort', done, { once: true });
    });
  }
}

function isSame(one: Letter, other: Letter): boolean {
  return one.id === other.id && one.hook === other.hook;
}

interface Stepped {
  readonly alert: SeenAlert;
  readonly before: AlertState;
  readonly state: AlertState;
  readonly notice: Notice | null;
  readonly at: number;
}

/** While all is well, when it was looked at last need not be known after a restart. */
function worthNoting(before: Noted<unknown>, after: Noted<unknown>): boolean {
  if (before.letters !== after.letters || before.past !== after.past || before.kept !== after.kept) return true;
  const names = new Set([...Object.keys(before.states), ...Object.keys(after.states)]);
  return [...names].some((name) => {
    const [was, is] = [before.states[name] ?? ALL_WELL, after.states[name] ?? ALL_WELL];
    return (['phase', 'seenMs', 'told', 'cause', 'acknowledged'] as const).some(
      (what) => (was[what] ?? null) !== (is[what] ?? null),
    );
  });
}

function forgotten<Kept>(noted: Noted<Kept>, name: string, { raisedAt }: AlertState, at: number): Noted<Kept> {
  const { [name]: _gone, ...states } = noted.states;
  const past =
    raisedAt === null ? noted.past : [...noted.past, { alert: name, when: 'no longer watched', raisedAt, resolvedAt: at }];
  return { ...noted, states, past: past.slice(-PAST_MAX) };
}

function bounded(letters: readonly Letter[], warn: AlertsOptions['warn']): readonly Letter[] {
  if (letters.length <= LETTERS_MAX) return letters;
  warn({ letters: letters.length }, 'too many alerts wait for their receivers: the oldest are given up');
  return letters.slice(-LETTERS_MAX);
}
