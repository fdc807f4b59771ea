import { z } from 'zod';
import { duration, optionalDuration } from './units.ts';

/** What a process is watched for, beside its own rules: how it usually goes is learned. */
export interface WatchConfig {
  readonly usual: UsualConfig;
  readonly drift: DriftConfig | null;
  readonly alerts: readonly ProcessAlert[];
}

/** What is usual, of objects that stay in a state and of activities that follow each other. */
export interface UsualConfig {
  /** Of completed stays, and of delays: what lasts longer than this share of them is stuck, or missing. */
  readonly quantile: number;
  /** Nothing is learned of fewer. */
  readonly casesMin: number;
}

export interface DriftConfig {
  readonly windowMs: number;
  readonly againstMs: number;
  /** How probable a false alarm may be. */
  readonly alpha: number;
}

/** `missing`: what usually follows did not; `silent`: a state moved backwards, or a row was deleted. */
export const FINDING_KINDS = ['rule', 'sla', 'stuck', 'missing', 'silent', 'drift'] as const;
export type FindingKind = (typeof FINDING_KINDS)[number];

export interface ProcessAlert {
  readonly on: readonly FindingKind[];
  /** Names of hooks. */
  readonly to: readonly string[];
  readonly groupBy: 'rule' | 'case';
  /** Null: told once. */
  readonly renotifyMs: number | null;
}

const above = (ms: number) => ms > 0;

/** Keys of a Process document that say what it is watched for. */
export const watchKeys = {
  stuck: z
    .strictObject({
      quantile: z.number().gt(0.5, 'expected a number above 0.5').lt(1, 'expected a number below 1').default(0.995),
      min_cases: z.int().min(10, 'expected at least 10: of fewer nothing can be learned').default(200),
    })
    .prefault({}),
  drift: z
    .strictObject({
      window: duration('7d').refine(above, 'expected a duration above 0'),
      against: duration('28d').refine(above, 'expected a duration above 0'),
      alpha: z.number().gt(0).lt(1).default(0.001),
    })
    .optional(),
  alerts: z
    .array(
      z.strictObject({
        on: z.array(z.enum(FINDING_KINDS, `expected some of ${FINDING_KINDS.join(', ')}`)).min(1, 'expected what it is about'),
        to: z.array(z.string()).default([]),
        group_by: z.enum(['rule', 'case'], 'expected rule or case').default('rule'),
        renotify: optionalDuration(),
      }),
    )
    .max(20)
    .default([]),
};

interface WatchDocument {
  readonly stuck: { readonly quantile: number; readonly min_cases: number };
  readonly drift?: { readonly window: number; readonly against: number; readonly alpha: number } | undefined;
  readonly alerts: readonly {
    readonly on: readonly FindingKind[];
    readonly to: readonly string[];
    readonly group_by: 'rule' | 'case';
    readonly renotify?: number | undefined;
  }[];
}

export function watchOf(
  { stuck, drift, alerts }: WatchDocument,
  complain: (message: string, ...path: (string | number)[]) => void,
): WatchConfig {
  alerts.forEach(({ on }, i) => {
    if (on.includes('drift') && !drift) complain('say what drift is ("drift: { window: 7d, against: 28d }")', 'alerts', i, 'on');
  });
  return {
    usual: { quantile: stuck.quantile, casesMin: stuck.min_cases },
    drift: drift ? { windowMs: drift.window, againstMs: drift.against, alpha: drift.alpha } : null,
    alerts: alerts.map(({ on, to, group_by: groupBy, renotify }) => ({ on, to, groupBy, renotifyMs: renotify ?? null })),
  };
}
