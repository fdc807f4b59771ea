import { z } from 'zod';
import type { KpiAlert, KpiConfig } from './kpi.ts';
import { duration, optionalDuration } from './units.ts';

/** Name of the alert that a target for freshness is watched by. */
const NAME = 'freshness';
/** Longest pause between two looks at how old values are, ms. */
const EVERY_MS_MAX = 5_000;
const EVERY_MS_MIN = 100;

export const freshness = z.strictObject({
  target: optionalDuration(),
  alert_after: duration('30s'),
  to: z.array(z.string()).default([]),
});

type FreshnessDocument = z.output<typeof freshness>;

/** What a promise about freshness has to be, of itself. */
export function checkFreshness(
  { target, alert_after, to }: FreshnessDocument,
  alerts: readonly { readonly name: string }[],
  complain: (message: string, ...path: string[]) => void,
): void {
  if (target === undefined) {
    if (to.length > 0) complain('"to" goes with "target": an alert is raised where one is promised', 'freshness', 'to');
    return;
  }
  if (target <= 0) complain('expected more than 0: no value is that fresh', 'freshness', 'target');
  if (target > alert_after)
    complain(
      `expected at most alert_after, which is ${alert_after} ms: values would be called late before`,
      'freshness',
      'target',
    );
  const taken = alerts.findIndex(({ name }) => name === NAME);
  if (taken !== -1)
    complain(`an alert called ${NAME} is there already, by freshness.target: call it otherwise`, 'alerts', String(taken), 'name');
}

/** @returns the promise, from which age on values are stale, and the alert that watches it, where there is a promise */
export function freshnessOf({
  target,
  alert_after: staleAfterMs,
  to,
}: FreshnessDocument): Pick<KpiConfig, 'freshnessTargetMs' | 'staleAfterMs'> & { readonly watch: readonly KpiAlert[] } {
  if (target === undefined) return { freshnessTargetMs: null, staleAfterMs, watch: [] };
  const watch: KpiAlert = {
    name: NAME,
    about: 'freshness',
    when: `values are older than ${staleAfterMs} ms`,
    // What makes it fire is that values are stale, never what they say.
    condition: { kind: 'number', value: 0 },
    stale: 'alert',
    by: [],
    seenWithinMs: 0,
    forMs: 0,
    keepFiringMs: 0,
    noData: 'hold',
    renotifyMs: null,
    everyMs: Math.max(EVERY_MS_MIN, Math.min(EVERY_MS_MAX, staleAfterMs / 4)),
    to,
  };
  return { freshnessTargetMs: target, staleAfterMs, watch: [watch] };
}
