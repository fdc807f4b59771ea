import { isoMicros } from '@tributary/core';
import { gTest, kolmogorovTail } from './statistics.ts';
import type { KeptSteps } from './kept-steps.ts';
import type { Scope } from './scope.ts';
import { overSteps } from './steps.ts';

/** Whether a process goes another way, or at another pace, than it did before. */
export interface Drift {
  /** ISO 8601. Events from `split` on are compared with those from `since` to `split`. */
  readonly since: string | null;
  readonly split: string | null;
  readonly until: string | null;
  readonly alpha: number;
  /** Ways: do steps have the same shares? (G-test; seldom steps count as one) */
  readonly edges: { readonly g: number; readonly df: number; readonly p: number; readonly drifted: boolean };
  /** The steps whose share changed most. */
  readonly changed: readonly { readonly from: string; readonly to: string; readonly before: number; readonly now: number }[];
  /**
   * Pace, per step: do times have the same distribution? (two-sample Kolmogorov-Smirnov) `p` is multiplied by the number of steps tested
   * (Bonferroni), so that many steps give no more false alarms than one. The most certain first.
   */
  readonly durations: readonly Paced[];
}

interface Paced {
  readonly from: string;
  readonly to: string;
  readonly before: { readonly count: number; readonly medianMs: number };
  readonly now: { readonly count: number; readonly medianMs: number };
  readonly d: number;
  readonly p: number;
  readonly drifted: boolean;
}

export interface DriftAsked {
  readonly windowMs: number;
  readonly againstMs: number;
  readonly alpha: number;
}

interface Row {
  readonly from: string;
  readonly to: string;
  readonly before: number;
  readonly now: number;
  readonly beforeMs: number | null;
  readonly nowMs: number | null;
  readonly d: number | null;
}

/** Fewer on either side show nothing. */
const SAMPLE_MIN = 20;
const CHANGED_MAX = 10;

/** Compares the newest `windowMs` with the `againstMs` before them. */
export function processDrift(steps: KeptSteps, scope: Scope, { windowMs, againstMs, alpha }: DriftAsked): Promise<Drift> {
  return overSteps(steps, scope, async (duck, { asOfUs }) => {
    const [newest] = await duck.rows<{ us: number | null }>('SELECT max(at_us) + 1 AS us FROM stepped');
    const until = scope.toUs ?? asOfUs ?? newest?.us ?? null;
    if (until === null)
      return { since: null, split: null, until, alpha, edges: { ...gTest([]), drifted: false }, changed: [], durations: [] };
    const split = Math.round(until - windowMs * 1_000);
    const since = Math.round(split - againstMs * 1_000);
    const rows = await duck.rows<Row>(
      `WITH sample AS (SELECT previous AS "from", activity AS "to", at_us - previous_us AS us, at_us >= ${split} AS new
           FROM stepped WHERE previous IS NOT NULL AND at_us >= ${since} AND at_us < ${until}),
       size AS (SELECT "from", "to", count(*) FILTER (NOT new) AS before, count(*) FILTER (new) AS now,
           median(us) FILTER (NOT new) / 1000.0 AS "beforeMs", median(us) FILTER (new) / 1000.0 AS "nowMs" FROM sample GROUP BY ALL),
       share AS (SELECT "from", "to", us, sum(count(*) FILTER (NOT new)) OVER w AS b, sum(count(*) FILTER (new)) OVER w AS n
           FROM sample GROUP BY "from", "to", us WINDOW w AS (PARTITION BY "from", "to" ORDER BY us))
       SELECT s."from", s."to", s.before, s.now, s."beforeMs", s."nowMs", max(abs(b / nullif(s.before, 0) - n / nullif(s.now, 0)))::DOUBLE AS d
         FROM size s JOIN share h ON h."from" = s."from" AND h."to" = s."to" GROUP BY ALL ORDER BY 1, 2`,
    );
    const edges = gTest(rows.map(({ before, now }) => [before, now]));
    return {
      since: isoMicros(since),
      split: isoMicros(split),
      until: isoMicros(until),
      alpha,
      edges: { ...edges, drifted: edges.p < alpha },
      changed: changedOf(rows),
      durations: pacedOf(rows, alpha),
    };
  });
}

function changedOf(rows: readonly Row[]): Drift['changed'] {
  const sum = (side: 'before' | 'now') =>
    Math.max(
      1,
      rows.reduce((all, row) => all + row[side], 0),
    );
  const [before, now] = [sum('before'), sum('now')];
  const moved = ({ before: b, now: n }: Row) => Math.abs(b / before - n / now);
  return rows
    .toSorted((a, b) => moved(b) - moved(a))
    .slice(0, CHANGED_MAX)
    .map(({ from, to, before: b, now: n }) => ({ from, to, before: b / before, now: n / now }));
}

function pacedOf(rows: readonly Row[], alpha: number): Paced[] {
  const tested = rows.filter(({ before, now }) => before >= SAMPLE_MIN && now >= SAMPLE_MIN);
  return tested
    .map(({ from, to, before, now, beforeMs, nowMs, d }): Paced => {
      const p = Math.min(1, kolmogorovTail(d ?? 0, { n: before, m: now }) * tested.length);
      return {
        from,
        to,
        before: { count: before, medianMs: beforeMs ?? 0 },
        now: { count: now, medianMs: nowMs ?? 0 },
        d: d ?? 0,
        p,
        drifted: p < alpha,
      };
    })
    .toSorted((a, b) => a.p - b.p || b.d - a.d);
}
