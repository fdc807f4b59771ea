/** What the supervisor does about a fault. */
export type Reaction =
  /** The same step again after a back-off; nothing is torn down. */
  | 'retry'
  /** Tear the actor down and start it again from its stored position, after a back-off. */
  | 'restart'
  /** Nothing helps until a person acts; the actor waits in state failed and shows the advice. */
  | 'operator'
  /** Someone else rightly owns the work; stop quietly. */
  | 'stop';

/** Every expected fault, what happens, and what an operator is told. One table for the whole system. */
export const FAULTS = {
  config_invalid: { reaction: 'operator', advice: 'Correct the configuration and apply it again.' },
  access_refused: {
    reaction: 'operator',
    advice: 'Use a token that the definition names under "access", with the claims that it asks for; or change either.',
  },
  fenced: { reaction: 'restart', advice: 'Another worker took over this changelog; this one starts again behind it.' },
  broker_unreachable: { reaction: 'restart', advice: 'Check that nats-server runs and that its address is right.' },
  reader_stalled: { reaction: 'restart', advice: 'The changelog reader made no progress; it is opened anew.' },
  chain_broken: {
    reaction: 'operator',
    advice: 'The changelog does not go on where this reader stands. Replay the projection: tributary replay NAME.',
  },
  ahead_of_history: {
    reaction: 'operator',
    advice:
      'The changelog lost what this projection holds. Its data is kept; run the replay that the message names, then verify.',
  },
  other_epoch: {
    reaction: 'operator',
    advice: 'The changelog was begun anew since. The data is kept; run the replay that the message names, then verify.',
  },
  other_system: {
    reaction: 'operator',
    advice:
      'The changelog is of another database cluster. The data is kept; if that is meant, run the replay that the message names.',
  },
  history_trimmed: {
    reaction: 'operator',
    advice:
      'Retention removed history this projection needs. A snapshot is asked of the source by itself, every minute; see the message.',
  },
  source_silent: {
    reaction: 'restart',
    advice: 'The source does not run, or not yet: see tributary status. It is asked again by itself.',
  },
  outside_history: {
    reaction: 'operator',
    advice: 'Name a position or time that the changelog holds, or "start" for all of it.',
  },
  changelog_format: { reaction: 'operator', advice: 'A batch was written by a newer version; upgrade this worker.' },
  database_unreachable: { reaction: 'restart', advice: 'Check host, port, credentials and pg_hba.conf of the database.' },
  database_rejected: { reaction: 'operator', advice: 'The database refused a statement; see the message.' },
  slot_in_use: { reaction: 'restart', advice: 'Another reader holds the replication slot; waiting for it to let go.' },
  slot_lost: { reaction: 'operator', advice: 'The slot was dropped or invalidated. Run: tributary snapshot SOURCE.' },
  source_rewound: {
    reaction: 'restart',
    advice: 'The database was set back to an earlier state; every table is read again and reconciled by itself.',
  },
  slot_budget: { reaction: 'operator', advice: 'Raise max_replication_slots and max_wal_senders, or drop unused slots.' },
  source_misconfigured: { reaction: 'operator', advice: 'Run: tributary check -f FILE, and mend what it names.' },
  contract_broken: {
    reaction: 'operator',
    advice:
      'Make the tables fit the contract again (the source then goes on by itself), or apply another contract, or schemaChanges: apply.',
  },
  identity_mismatch: { reaction: 'operator', advice: 'The database is not the one this changelog was made from.' },
  target_conflict: {
    reaction: 'operator',
    advice: 'The target table exists with another shape. Move it away, or name another schema for this sink.',
  },
  target_dropped: {
    reaction: 'restart',
    advice: 'Somebody dropped a table of the target; it is made anew. What it held comes back by: tributary verify --repair.',
  },
  poison: { reaction: 'operator', advice: 'A change could not be applied; see the message for table and position.' },
  receiver_refused: {
    reaction: 'operator',
    advice:
      'The receiver of the events must be mended; it is asked again every minute. onError: quarantine puts such events aside.',
  },
  receiver_away: {
    reaction: 'restart',
    advice: 'Check that the receiver runs and can be reached from here; it is asked again by itself.',
  },
  disk_full: { reaction: 'restart', advice: 'Free disk space; work goes on by itself.' },
  memory_full: { reaction: 'restart', advice: 'More memory was needed than this part may use; it is tried again by itself.' },
  query_refused: { reaction: 'operator', advice: 'Only a single SELECT over the captured tables is allowed.' },
  not_complete: { reaction: 'restart', advice: 'Its tables are still being read; ask again in a moment. See tributary status.' },
  kpi_put_aside: {
    reaction: 'restart',
    advice: 'One KPI cannot be computed and no longer holds up the others. Correct its definition and apply it again.',
  },
  worker_lost: {
    reaction: 'restart',
    advice:
      'The worker that took the question died, or the way to it is cut. Another takes over what it ran within seconds: ask again.',
  },
  not_found: { reaction: 'operator', advice: 'Check the name: tributary status lists what there is.' },
} as const satisfies Record<string, { reaction: Reaction; advice: string }>;

export type FaultKind = keyof typeof FAULTS;

/** Facts that make a fault findable: names, counts, positions. Never row values, never secrets. */
export type FaultFacts = Readonly<Record<string, string | number | bigint | boolean | null | undefined>>;

/**
 * An expected failure. A bug is an assertion instead.
 * `message` is written for the operator: where it happened and what to do.
 */
export class Fault extends Error {
  readonly kind: FaultKind;
  readonly facts: FaultFacts;

  constructor(kind: FaultKind, message: string, facts: FaultFacts = {}, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'Fault';
    this.kind = kind;
    this.facts = facts;
  }

  get reaction(): Reaction {
    return FAULTS[this.kind].reaction;
  }

  get advice(): string {
    return FAULTS[this.kind].advice;
  }
}

/**
 * The text of anything thrown, with its causes, on one line. The language's own SyntaxErrors (JSON.parse, BigInt) quote
 * what they could not read, which may be a row value or a secret: of them only the name is told.
 */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof SyntaxError) return 'SyntaxError (its text may quote data)';
  const own = error.message || (error as { code?: string }).code || error.name;
  return error.cause === undefined ? own : `${own}: ${describeError(error.cause)}`;
}
