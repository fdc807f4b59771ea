import type { HookConfig, KpiAlert, KpiConfig } from '@tributary/config';
import type { Clock, Kv } from '@tributary/core';
import { Backoff, Receiver } from '@tributary/projection';
import { AlertNote, type Letter, type Noted } from './alert-note.ts';
import type { Named } from './alert-sight.ts';
import { ALL_WELL, type AlertState, type Notice, type Sight, step } from './alert-state.ts';
import type { KpiFreshness } from './moment.ts';

/** Alerts that are over are remembered, up to so many a KPI. */
const PAST_MAX = 20;
/** Letters to one receiver that is away; then the oldest go. */
const LETTERS_MAX = 200;
/** Looks that are missed: so many times the usual pause still counts as having looked all the time. */
const GAP_PAUSES = 3;

/** One look at all alerts of a KPI. */
export interface Look {
  readonly at: number;
  readonly freshness: KpiFreshness | null;
  readonly alerts: ReadonlyMap<string, { readonly sight: Sight; readonly named: Named }>;
}

/** As status tells it. */
interface AlertFact {
  readonly alert: string;
  readonly state: AlertState['phase'] | 'resolved';
  readonly problem: string;
  readonly cause: string | null;
  readonly owner: string;
  readonly raisedAt: number;
  readonly resolvedAt: number | null;
}

interface Hook {
  readonly config: HookConfig;
  readonly receiver: Pick<Receiver, 'post'>;
  readonly backoff: Backoff;
}

export interface AlertsOptions {
  readonly config: KpiConfig;
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
 * Keeps the alerts of one KPI. What a look changes, and whom it is to be told, is one write (alert-note.ts); letters are sent from there and
 * struck off when they were taken. So a worker that dies anywhere loses no letter, and sends one again only under the id it had.
 */
export class Alerts {
  readonly #options: AlertsOptions;
  readonly #note: AlertNote;
  readonly #receivers: ReadonlyMap<string, Hook>;
  #noted: Noted | null = null;
  #named = new Map<string, Named>();
  #writing: Promise<void> = Promise.resolve();
  #wake: () => void = () => {};

  constructor(options: AlertsOptions) {
    const { config, hooks, positions, clock, chance = Math.random } = options;
    const { receiverOf = (hook) => new Receiver(hook.target, clock) } = options;
    this.#options = options;
    this.#note = new AlertNote(positions, config.name);
    this.#receivers = new Map(
      hooks.map((hook) => [
        hook.name,
        { config: hook, receiver: receiverOf(hook), backoff: new Backoff(hook.target.retries, chance) },
      ]),
    );
  }

  async open(): Promise<void> {
    this.#noted = await this.#note.open();
  }

  /** Takes in what a look found. */
  async take({ at, freshness, alerts }: Look): Promise<void> {
    const { config } = this.#options;
    await this.#change((noted) => {
      let next = noted;
      for (const alert of config.alerts) {
        const seen = alerts.get(alert.name);
        if (!seen) continue;
        this.#named.set(alert.name, seen.named);
        const before = next.states[alert.name] ?? ALL_WELL;
        const { state, notice } = step(alert, before, { sight: seen.sight, at, gapMs: GAP_PAUSES * alert.everyMs });
        next = this.#stepped(next, { alert, before, state, notice, at, freshness });
      }
      // An alert that was taken out of the definition is over.
      for (const [name, before] of Object.entries(next.states))
        if (!config.alerts.some((alert) => alert.name === name)) next = forgotten(next, name, before, at);
      return next;
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

  facts(): readonly AlertFact[] {
    const { config } = this.#options;
    const { states = {}, past = [] } = this.#noted ?? {};
    const owner = config.owner ?? '';
    const raised = config.alerts.flatMap((alert): AlertFact[] => {
      const { phase: state, cause, raisedAt } = states[alert.name] ?? ALL_WELL;
      if (raisedAt === null) return [];
      return [{ alert: alert.name, state, problem: this.#problem(alert, cause), cause, owner, raisedAt, resolvedAt: null }];
    });
    const over = past.map(({ alert, when, raisedAt, resolvedAt }) => {
      return { alert, state: 'resolved' as const, problem: when, cause: null, owner, raisedAt, resolvedAt };
    });
    return [...raised, ...over.toReversed()];
  }

  #problem({ name, when }: KpiAlert, cause: string | null): string {
    if (cause === 'no_data') return `${when}: a value is missing`;
    if (cause === 'stale') return `${when}: values are older than ${this.#options.config.staleAfterMs} ms`;
    // Alerts are told to whoever looks after the cluster; values only to those who may read the KPI.
    if (this.#options.config.access) return when;
    const told = Object.entries(this.#named.get(name) ?? {}).map(([what, value]) => `${what} = ${value ?? 'missing'}`);
    return told.length === 0 ? when : `${when} (${told.join(', ')})`;
  }

  #stepped(noted: Noted, { alert, before, state, notice, at, freshness }: Stepped): Noted {
    const states = { ...noted.states, [alert.name]: state };
    if (notice === null) return { ...noted, states };
    const raisedAt = state.raisedAt ?? before.raisedAt ?? at;
    const letters = alert.to.flatMap((hook) => {
      if (!this.#receivers.has(hook)) return [];
      const told = notice === 'resolved' ? before.told + 1 : state.told;
      const id = `${this.#options.config.name}.${alert.name}.${raisedAt}.${told}`;
      return [
        { id, hook, body: JSON.stringify(this.#body({ alert, before, state, notice, at, freshness }, raisedAt)), attempts: 0 },
      ];
    });
    const past =
      notice === 'resolved' ? [...noted.past, { alert: alert.name, when: alert.when, raisedAt, resolvedAt: at }] : noted.past;
    return {
      ...noted,
      states,
      past: past.slice(-PAST_MAX),
      letters: bounded([...noted.letters, ...letters], this.#options.warn),
    };
  }

  #body({ alert, before, state, notice, at, freshness }: Stepped, raisedAt: number): object {
    const { name: kpi, owner } = this.#options.config;
    return {
      type: 'tributary.kpi.alert',
      kpi,
      alert: alert.name,
      owner,
      state: notice,
      cause: state.cause ?? before.cause,
      when: alert.when,
      values: this.#named.get(alert.name) ?? {},
      raisedAt: new Date(raisedAt).toISOString(),
      resolvedAt: notice === 'resolved' ? new Date(at).toISOString() : null,
      at: new Date(at).toISOString(),
      freshness,
    };
  }

  /** One change of the note at a time; it is what is known only once it is written. */
  async #change(change: (noted: Noted) => Noted): Promise<void> {
    const before = this.#writing;
    const written = before.then(async () => {
      const noted = this.#noted as Noted;
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
      if (signal.aborted) return;
      const attempts = letter.attempts + 1;
      const over =
        answer.kind === 'taken' ||
        answer.kind === 'gone' ||
        (answer.kind === 'refused' && attempts >= config.target.retries.attempts);
      if (over) {
        if (answer.kind !== 'taken')
          warn({ hook, id, reason: answer.reason }, 'a receiver does not take an alert: it is given up');
        await this.#change((noted) => ({ ...noted, letters: noted.letters.filter((one) => !isSame(one, letter)) }));
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
  readonly alert: KpiAlert;
  readonly before: AlertState;
  readonly state: AlertState;
  readonly notice: Notice | null;
  readonly at: number;
  readonly freshness: KpiFreshness | null;
}

/** While all is well, when it was looked at last need not be known after a restart. */
function worthNoting(before: Noted, after: Noted): boolean {
  if (before.letters !== after.letters || before.past !== after.past) return true;
  const names = new Set([...Object.keys(before.states), ...Object.keys(after.states)]);
  return [...names].some((name) => {
    const [was, is] = [before.states[name] ?? ALL_WELL, after.states[name] ?? ALL_WELL];
    return was.phase !== is.phase || was.seenMs !== is.seenMs || was.told !== is.told || was.cause !== is.cause;
  });
}

function forgotten(noted: Noted, name: string, { raisedAt }: AlertState, at: number): Noted {
  const { [name]: _gone, ...states } = noted.states;
  const past =
    raisedAt === null
      ? noted.past
      : [...noted.past, { alert: name, when: 'taken out of the definition', raisedAt, resolvedAt: at }];
  return { ...noted, states, past: past.slice(-PAST_MAX) };
}

function bounded(letters: readonly Letter[], warn: AlertsOptions['warn']): readonly Letter[] {
  if (letters.length <= LETTERS_MAX) return letters;
  warn({ letters: letters.length }, 'too many alerts wait for their receivers: the oldest are given up');
  return letters.slice(-LETTERS_MAX);
}
