import { Alerts, type AlertsOptions, type AlertState, ALL_WELL, type SeenAlert, type Sight } from '@tributary/alerts';
import type { KpiAlert, KpiConfig } from '@tributary/config';
import type { Named } from './alert-sight.ts';
import type { KpiFreshness } from './moment.ts';

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
  readonly acknowledged: AlertState['acknowledged'];
}

/** The alerts of one KPI: what {@link Alerts} keeps, in its words. */
export class KpiAlerts {
  readonly #config: KpiConfig;
  readonly #alerts: Alerts;
  #named = new Map<string, Named>();

  constructor({ config, ...rest }: { readonly config: KpiConfig } & Omit<AlertsOptions, 'key' | 'prefix'>) {
    this.#config = config;
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
    const seen = config.alerts.flatMap((alert): SeenAlert[] => {
      const found = alerts.get(alert.name);
      if (!found) return [];
      this.#named.set(alert.name, found.named);
      const { name, when, to, everyMs } = alert;
      const { name: kpi, owner } = config;
      return [
        {
          name,
          when,
          to,
          rule: alert,
          sight: found.sight,
          gapMs: GAP_PAUSES * everyMs,
          body: ({ state, cause, ...times }) => ({
            type: 'tributary.kpi.alert',
            kpi,
            alert: name,
            owner,
            state,
            cause,
            when,
            values: found.named,
            ...times,
            freshness,
          }),
        },
      ];
    });
    await this.#alerts.take(at, () => ({ seen, known: (name) => config.alerts.some((alert) => alert.name === name) }));
  }

  facts(): readonly AlertFact[] {
    const owner = this.#config.owner ?? '';
    const raised = this.#config.alerts.flatMap((alert): AlertFact[] => {
      const { phase: state, cause, raisedAt, acknowledged = null } = this.#alerts.states[alert.name] ?? ALL_WELL;
      if (raisedAt === null) return [];
      const problem = this.#problem(alert, cause);
      return [{ alert: alert.name, state, problem, cause, owner, raisedAt, resolvedAt: null, acknowledged }];
    });
    const over = this.#alerts.past.map(({ alert, when, raisedAt, resolvedAt }) => {
      return { alert, state: 'resolved' as const, problem: when, cause: null, owner, raisedAt, resolvedAt, acknowledged: null };
    });
    return [...raised, ...over.toReversed()];
  }

  #problem({ name, when }: KpiAlert, cause: string | null): string {
    if (cause === 'no_data') return `${when}: a value is missing`;
    if (cause === 'stale') return `${when}: values are older than ${this.#config.staleAfterMs} ms`;
    // Alerts are told to whoever looks after the cluster; values only to those who may read the KPI.
    if (this.#config.access) return when;
    const told = Object.entries(this.#named.get(name) ?? {}).map(([what, value]) => `${what} = ${value ?? 'missing'}`);
    return told.length === 0 ? when : `${when} (${told.join(', ')})`;
  }
}
