import { isoMicros } from '@tributary/core';
import { duckLiteral } from '@tributary/duckdb';
import type { KeptSteps } from './kept-steps.ts';
import type { Scope } from './scope.ts';
import { overSteps } from './steps.ts';

/** How long cases took from one activity to the one directly after it, one by one. */
export interface Spectrum {
  readonly from: string;
  readonly to: string;
  /** How often; `steps` are the newest of them. */
  readonly total: number;
  /** A quarter, half, and three quarters went within. */
  readonly quartilesMs: readonly number[];
  /** `quarter`: 0 for the fastest, 3 for the slowest. */
  readonly steps: readonly { readonly at: string; readonly ms: number; readonly quarter: number }[];
}

/** @param segment two activities that follow each other directly */
export function processSpectrum(
  steps: KeptSteps,
  scope: Scope,
  { from, to, limit }: { readonly from: string; readonly to: string; readonly limit: number },
): Promise<Spectrum> {
  return overSteps(steps, scope, async (duck) => {
    const segment = `step WHERE previous = ${duckLiteral(from)} AND activity = ${duckLiteral(to)}`;
    const [all] = await duck.rows<{ total: number; quartiles: number[] | null }>(
      `SELECT count(*) AS total, quantile_cont((at_us - previous_us) / 1000.0, [0.25, 0.5, 0.75]) AS quartiles FROM ${segment}`,
    );
    const quartilesMs = all?.quartiles ?? [];
    const rows = await duck.rows<{ at: number; us: number }>(
      `SELECT previous_us AS at, at_us - previous_us AS us FROM ${segment} ORDER BY tick DESC, c LIMIT ${limit}`,
    );
    const steps = rows.toReversed().map(({ at, us }) => {
      const ms = us / 1_000;
      return { at: isoMicros(at), ms, quarter: quartilesMs.filter((one) => ms > one).length };
    });
    return { from, to, total: all?.total ?? 0, quartilesMs, steps };
  });
}
