import { unreachable } from '@tributary/core';

/** What a look found. */
export type Sight = 'met' | 'unmet' | 'no_data' | 'stale';

/** `keep_firing`: the condition no longer holds, but has not been away for long enough. */
export type AlertPhase = 'ok' | 'pending' | 'firing' | 'keep_firing';

/** Why an alert is raised. */
export type AlertCause = 'condition' | 'no_data' | 'stale';

/** Where an alert stands. JSON; times are milliseconds since 1970. */
export interface AlertState {
  readonly phase: AlertPhase;
  /** Since when it has been pending or raised; null while all is well. */
  readonly raisedAt: number | null;
  readonly cause: AlertCause | null;
  /** For how long the condition was seen to hold (pending) or not to hold (keep_firing). */
  readonly seenMs: number;
  readonly lookedAt: number | null;
  /** When somebody was last told that it fires. */
  readonly notifiedAt: number | null;
  /** How often somebody was told of this episode. */
  readonly told: number;
  /** Who has taken note of it: nobody is reminded then. Absent in notes of earlier versions. */
  readonly acknowledged?: Acknowledged | null;
}

export interface Acknowledged {
  readonly by: string;
  readonly at: number;
}

export const ALL_WELL: AlertState = {
  phase: 'ok',
  raisedAt: null,
  cause: null,
  seenMs: 0,
  lookedAt: null,
  notifiedAt: null,
  told: 0,
  acknowledged: null,
};

/** What somebody is to be told of. */
export type Notice = 'firing' | 'reminder' | 'resolved';

export interface Step {
  readonly state: AlertState;
  readonly notice: Notice | null;
}

/** How an alert goes through its life. */
export interface AlertRule {
  /** What it is about must have been so for so long. */
  readonly forMs: number;
  /** And not so for so long before the alert is over. */
  readonly keepFiringMs: number;
  /** A value that decides is missing: as if it were so, as if not, or nothing changes. */
  readonly noData: 'alert' | 'ok' | 'hold';
  /** What is known is too old: nothing changes, or as if it were so. */
  readonly stale: 'hold' | 'alert';
  /** Whoever was told is told again after so long; null: told once. */
  readonly renotifyMs: number | null;
}

/**
 * One look at an alert. Pure: all transitions of the life cycle are here (SPEC.md, Alerts), and nothing else.
 *
 * `for` and `keep_firing` count time in which the condition was seen: between two looks that saw the same, and never more than
 * `gapMs`, so that neither a worker that was away nor data that stood still lets an alert fire, or be over, unseen.
 * @param gapMs longest time between two looks that counts as seen
 * @param news while it fires there is more of the same: told once more, whoever has taken note of what was before
 */
export function step(
  rule: AlertRule,
  before: AlertState,
  { sight, at, gapMs, news = false }: { sight: Sight; at: number; gapMs: number; news?: boolean },
): Step {
  const { holds, cause } = meaning(rule, sight);
  const state = { ...before, lookedAt: at };
  if (holds === null) return reminded(rule, state, at);
  const passed = before.lookedAt === null ? 0 : Math.min(gapMs, Math.max(0, at - before.lookedAt));
  const fire = (raisedAt: number): Step => ({
    state: { ...state, phase: 'firing', raisedAt, cause, seenMs: 0, notifiedAt: at, told: before.told + 1 },
    notice: 'firing',
  });
  const resolve = (): Step => ({ state: { ...ALL_WELL, lookedAt: at }, notice: 'resolved' });
  switch (before.phase) {
    case 'ok':
      if (!holds) return { state, notice: null };
      if (rule.forMs === 0) return fire(at);
      return { state: { ...state, phase: 'pending', raisedAt: at, cause, seenMs: 0 }, notice: null };
    case 'pending': {
      if (!holds) return { state: { ...ALL_WELL, lookedAt: at }, notice: null };
      const seenMs = before.seenMs + passed;
      if (seenMs >= rule.forMs) return fire(before.raisedAt ?? at);
      return { state: { ...state, cause, seenMs }, notice: null };
    }
    case 'firing':
      if (holds && news) {
        const told = { notifiedAt: at, told: before.told + 1, acknowledged: null };
        return { state: { ...state, ...told, cause }, notice: 'firing' };
      }
      if (holds) return reminded(rule, { ...state, cause }, at);
      if (rule.keepFiringMs === 0) return resolve();
      return reminded(rule, { ...state, phase: 'keep_firing', seenMs: 0 }, at);
    case 'keep_firing': {
      if (holds) return reminded(rule, { ...state, phase: 'firing', cause, seenMs: 0 }, at);
      const seenMs = before.seenMs + passed;
      return seenMs >= rule.keepFiringMs ? resolve() : reminded(rule, { ...state, seenMs }, at);
    }
    default:
      return unreachable(before.phase);
  }
}

/** Null: nothing can be said, so nothing changes. */
function meaning({ noData, stale }: AlertRule, sight: Sight): { holds: boolean | null; cause: AlertCause | null } {
  switch (sight) {
    case 'met':
      return { holds: true, cause: 'condition' };
    case 'unmet':
      return { holds: false, cause: null };
    case 'no_data':
      if (noData === 'hold') return { holds: null, cause: null };
      return noData === 'alert' ? { holds: true, cause: 'no_data' } : { holds: false, cause: null };
    case 'stale':
      return stale === 'hold' ? { holds: null, cause: null } : { holds: true, cause: 'stale' };
    default:
      return unreachable(sight);
  }
}

/** Whoever was told that it fires is told again, also while nothing new is seen. */
function reminded({ renotifyMs }: AlertRule, state: AlertState, at: number): Step {
  const fires = state.phase === 'firing' || state.phase === 'keep_firing';
  if (!fires || state.acknowledged || renotifyMs === null || at - (state.notifiedAt ?? at) < renotifyMs)
    return { state, notice: null };
  return { state: { ...state, notifiedAt: at, told: state.told + 1 }, notice: 'reminder' };
}
