import { Alerts, type AlertsOptions, type AlertState, type SeenAlert } from '@tributary/alerts';
import type { KpiAlert, KpiConfig } from '@tributary/config';
import { groupedName, groupNamed, TOGETHER } from './alert-groups.ts';
import type { Named, Sighting } from './alert-sight.ts';
import type { KpiFreshness } from './moment.ts';

/** Looks that are missed: so many times the usual pause still counts as having looked all the time. */
const GAP_PAUSES = 3;

/** What a look saw of one alert: of each group that it watches; or nothing, of none. */
export type Seen =
  | 'stale'
  | { readonly sightings: readonly Sighting[] /** There are more than it watches. */; readonly more: boolean };

/** One look at all alerts of a KPI. */
export interface Look {
  readonly at: number;
  readonly freshness: KpiFreshness | null;
  readonly alerts: ReadonlyMap<string, Seen>;
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
  readonly acknowledged: AlertState['acknowledged'];
}

/** The alerts of one KPI: what {@link Alerts} keeps, in its words. */
export class KpiAlerts {
  readonly #config: KpiConfig;
  readonly #alerts: Alerts;
  readonly #warn: AlertsOptions['warn'];
  /** By name of alert and group: what was seen last. */
  readonly #named = new Map<string, Named>();
  /** Alerts of which it was told that there is more than they can watch. */
  readonly #told = new Set<string>();

  constructor({ config, ...rest }: { readonly config: KpiConfig } & Omit<AlertsOptions, 'key' | 'prefix'>) {
    this.#config = config;
    this.#warn = rest.warn;
    this.#alerts = new Alerts({ ...rest, key: `kpi-alerts.${config.name}`, prefix: config.name });
  }

  open(): Promise<void> {
    return this.#alerts.open();
  }

  /** Sends letters as they come, until `signal` aborts. */
  deliver(signal: AbortSignal): Promise<void> {
    return this.#alerts.deliver(signal);
  }

  /** @throws Fault `not_found` when it does not fire */
  acknowledge(alert: string, by: { readonly by: string; readonly at: number }): Promise<void> {
    return this.#alerts.acknowledge(alert, by);
  }

  /** How many letters were not taken yet. */
  get lettersLeft(): number {
    return this.#alerts.lettersLeft;
  }

  /** Takes in what a look found. */
  async take({ at, freshness, alerts }: Look): Promise<void> {
    const config = this.#config;
    const seen = config.alerts.flatMap((alert) => {
      const found = alerts.get(alert.name);
      if (!found) return [];
      if (found !== 'stale' && found.more) this.#tellMore(alert);
      const sightings = found === 'stale' ? this.#unseen(alert) : found.sightings;
      return sightings.map((sighting) => this.#seen(alert, sighting, freshness));
    });
    const names = new Set(seen.map(({ name }) => name));
    // One that was not looked at stays as it is.
    const known = (name: string) => {
      const { alert } = groupNamed(name);
      return names.has(name) || (!alerts.has(alert) && config.alerts.some((one) => one.name === alert));
    };
    await this.#alerts.take(at, () => ({ seen, known }));
    for (const name of this.#named.keys()) if (!names.has(name)) this.#named.delete(name);
  }

  /** Everything that is known of an alert, when nothing can be seen of it. */
  #unseen({ name, by }: KpiAlert): Sighting[] {
    const groups = Object.keys(this.#alerts.states)
      .map(groupNamed)
      .filter(({ alert, group }) => alert === name && Object.keys(group).join() === by.join())
      .map(({ group }) => group);
    return (by.length === 0 ? [TOGETHER] : groups).map((group) => ({ group, sight: 'stale', named: {} }));
  }

  #seen(alert: KpiAlert, { group, sight, named }: Sighting, freshness: KpiFreshness | null): SeenAlert {
    const { when, to, everyMs } = alert;
    const { name: kpi, owner } = this.#config;
    const name = groupedName(alert.name, group);
    this.#named.set(name, named);
    const dimensions = alert.by.length === 0 ? {} : { dimensions: group };
    return {
      name,
      when,
      to,
      rule: alert,
      sight,
      gapMs: GAP_PAUSES * everyMs,
      body: ({ state, cause, ...times }) => ({
        type: 'tributary.kpi.alert',
        kpi,
        alert: alert.name,
        ...dimensions,
        owner,
        state,
        cause,
        when,
        values: named,
        ...times,
        freshness,
      }),
    };
  }

  #tellMore({ name, by }: KpiAlert): void {
    if (this.#told.has(name)) return;
    this.#told.add(name);
    const facts = { kpi: this.#config.name, alert: name, by };
    this.#warn(facts, 'an alert has more values than it can watch: those with the most rows are watched');
  }

  facts(): readonly AlertFact[] {
    const owner = this.#config.owner ?? '';
    const { states } = this.#alerts;
    const raised = this.#config.alerts.flatMap((alert) =>
      Object.entries(states).flatMap(([name, { phase: state, cause, raisedAt, acknowledged = null }]): AlertFact[] => {
        if (raisedAt === null || groupNamed(name).alert !== alert.name) return [];
        const problem = this.#problem(alert, name, cause);
        return [{ alert: name, state, problem, cause, owner, raisedAt, resolvedAt: null, acknowledged }];
      }),
    );
    const over = this.#alerts.past.map(({ alert, when, raisedAt, resolvedAt }) => {
      return { alert, state: 'resolved' as const, problem: when, cause: null, owner, raisedAt, resolvedAt, acknowledged: null };
    });
    return [...raised, ...over.toReversed()];
  }

  #problem({ when, about }: KpiAlert, name: string, cause: string | null): string {
    if (about === 'freshness') return when;
    if (cause === 'no_data') return `${when}: a value is missing`;
    if (cause === 'stale') return `${when}: values are older than ${this.#config.staleAfterMs} ms`;
    // Alerts are told to whoever looks after the cluster; values only to those who may read the KPI.
    if (this.#config.access) return when;
    const told = Object.entries(this.#named.get(name) ?? {}).map(([what, value]) => `${what} = ${value ?? 'missing'}`);
    return told.length === 0 ? when : `${when} (${told.join(', ')})`;
  }
}
