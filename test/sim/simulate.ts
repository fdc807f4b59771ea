import type { Cell } from '@tributary/core';
import { Broker, type Publish } from './broker.ts';
import { type FaultPlan, Faults } from './faults.ts';
import { KvModel } from './kv.ts';
import { Ledger } from './ledger.ts';
import { type ModelTable, PostgresModel, type Transaction, type Values } from './pg-model.ts';
import type { Prng } from './prng.ts';
import { SinkModel } from './sink.ts';
import type { Breakage, Cluster } from './worker.ts';
import { Workload, type WorkloadOptions } from './workload.ts';
import { WholeTables } from './whole-tables.ts';
import { type Violation, World } from './world.ts';

export interface Outcome {
  readonly seed: number;
  /** Of everything that happened, in its order. */
  readonly hash: string;
  readonly events: number;
  readonly changes: number;
  readonly violation: Violation | null;
  /** The end of the trace. */
  readonly lines: readonly string[];
}

export interface SimulateOptions {
  readonly breakage?: Breakage;
  /** Faults that a seed has whatever it would choose. */
  readonly faults?: Partial<FaultPlan>;
  readonly workload?: Partial<WorkloadOptions>;
  /** False: none, whatever the seed would choose. */
  readonly leases?: boolean;
  /** Lines of the trace that are kept; 0 = none, which is faster. */
  readonly linesMax?: number;
}

/** After healing everything must come to rest within this much virtual time. */
const HEALED_MS = 90_000;

/**
 * One seed, one world: several workers with production code, a workload, and the faults that this seed enables.
 * First the faults; then everything is healed, and the world must converge.
 */
export async function simulate(seed: number, options: SimulateOptions = {}): Promise<Outcome> {
  const { breakage = {}, linesMax = 0 } = options;
  const world = new World(seed, linesMax);
  const { random } = world;
  const chosen = { ...faultPlan(random), ...options.faults };
  // Where the changelog lost its end and its epoch is gone too, an operator decides: not a case for convergence.
  const plan = chosen.brokerCrash > 0 || chosen.brokerAim > 0 ? { ...chosen, slotDrop: 0 } : chosen;
  const postgres = new PostgresModel(world);
  const writes = { ...workloadOptions(random), ...options.workload };
  const workload = new Workload(world, postgres, writes);
  const ledger = new Ledger(world, postgres);
  const broker = new Broker(world, random.chance(0.3) ? 48 * 1024 : 1024 * 1024, breakage.publish ?? plainly);
  broker.watch = ledger;
  const sink = new SinkModel(world);
  const exactlyOnce = new ExactlyOnce(world, postgres);
  const wholeTables = new WholeTables(postgres);
  sink.committed = () => {
    checkSink({ world, postgres, sink, wholeTables });
    exactlyOnce.check(sink);
  };
  const calm = () => ({ delayMs: 1, lossChance: 0 });
  const weather = { broker: calm(), postgres: calm(), sink: calm() };
  const cluster: Cluster = {
    world,
    broker,
    ledger,
    postgres,
    sink,
    weather,
    syncMs: random.pick([1_000, 4_000]),
    kv: random.chance(0.7) && options.leases !== false ? new KvModel(world) : null,
    breakage,
  };
  const faults = new Faults(cluster, plan, 1 + random.below(3));
  workload.start();
  faults.start();
  const broken = () => world.violation !== null;
  await world.scheduler.run(random.between(8_000, 40_000), broken);
  faults.heal();
  await world.scheduler.run(world.now + 2_000, broken);
  workload.stop();
  const converged = () => broken() || isConverged(cluster, workload);
  if (!(await world.scheduler.run(world.now + HEALED_MS, converged))) {
    const missing = ledger.missing();
    const differ = workload.tables.filter((table) => !isEqual(cluster, table)).map(({ name }) => name);
    const why = missing
      ? `transaction ${missing.commitLsn} is not in the changelog`
      : `the sink stands at ${sink.position.seq} of ${ledger.lastSeq}, ${differ.join(' and ')} not equal`;
    world.broke('convergence', `${why}; ${faults.workers.map((worker) => worker.status()).join(' | ')}`);
  }
  checkContent(world, postgres, sink);
  const hash = (world.scheduler.hash >>> 0).toString(16).padStart(8, '0');
  for (const worker of faults.workers) worker.process.alive = false;
  return { seed, hash, events: world.scheduler.events, changes: ledger.events, violation: world.violation, lines: world.lines };
}

/** Swarm testing: every seed enables its own subset of faults, so that rare combinations get their turn. */
function faultPlan(random: Prng): FaultPlan {
  const often = (low: number, high: number, chance = 0.4) => (random.chance(chance) ? random.between(low, high) : 0);
  return {
    crash: often(2_000, 15_000),
    pause: often(3_000, 15_000),
    partition: often(2_000, 12_000),
    breakConnection: often(300, 6_000),
    postgresCrash: often(4_000, 20_000, 0.25),
    brokerCrash: often(3_000, 15_000, 0.35),
    brokerAim: random.chance(0.3) ? random.between(0.05, 0.5) : 0,
    sinkTrouble: often(1_000, 8_000),
    clockJump: often(1_000, 10_000, 0.25),
    weather: often(1_000, 6_000),
    kvLoss: often(4_000, 15_000, 0.2),
    slotDrop: often(500, 15_000, 0.15),
    ask: often(500, 8_000, 0.5),
  };
}

function workloadOptions(random: Prng): WorkloadOptions {
  return {
    everyMs: random.between(60, 400),
    statementMs: random.between(2, 60),
    visibleMs: random.chance(0.4) ? random.between(20, 1_500) : 0,
    hugeChance: random.chance(0.2) ? 0.03 : 0,
    rows: random.below(120),
    keyless: random.chance(0.5) ? random.between(0.1, 0.7) : 0,
    truncateChance: random.chance(0.4) ? random.between(0.002, 0.05) : 0,
  };
}

/** Counts the changes of tables with a key that a sink must have applied where it stands; in others a change that comes twice shows. */
class ExactlyOnce {
  readonly #world: World;
  readonly #model: PostgresModel;
  #next = 0;
  #due = 0;

  constructor(world: World, model: PostgresModel) {
    this.#world = world;
    this.#model = model;
  }

  check({ applied, position }: SinkModel): void {
    // What a gap swallowed cannot be counted.
    if (this.#model.gapped) return;
    const begins = this.#model.firstSlotAt;
    for (; this.#next < this.#model.wal.length; this.#next++) {
      const transaction = this.#model.wal[this.#next] as Transaction;
      if (transaction.commitLsn > position.lsn) break;
      if (begins === null || transaction.commitLsn < begins) continue;
      for (const { published, table } of transaction.changes) if (published && table.key.length > 0) this.#due++;
    }
    if (applied !== this.#due)
      this.#world.broke('exactly once', `the sink applied ${applied} changes up to ${position.lsn}, not ${this.#due}`);
  }
}

const plainly: Publish = (store, source, bytes, place) => store.publish(source, bytes, place);

interface Checked {
  readonly world: World;
  readonly postgres: PostgresModel;
  readonly sink: SinkModel;
  readonly wholeTables: WholeTables;
}

/** Where the sink stands every whole table must be what the WAL up to there makes of it. */
function checkSink({ world, postgres, sink, wholeTables }: Checked): void {
  const { lsn } = sink.position;
  // Rows that a snapshot read after a gap are as of the new slot's beginning, at least.
  const at = sink.epochs > 1 && postgres.newestSlotAt > lsn ? postgres.newestSlotAt : lsn;
  for (const [name, table] of sink.tables) {
    if (!table.whole || table.seen) continue;
    const model = postgres.tables.get(name);
    if (model && model.key.length === 0) {
      const { snapshot } = table;
      if (snapshot && table.digest === wholeTables.digestAt(model, snapshot, lsn)) continue;
      const why = snapshot ? wholeTables.difference(model, snapshot, lsn, table.rows.values()) : 'nobody says what was read';
      world.broke('projection', `${name} at ${sink.position.seq} (${lsn}) differs from the database: ${why}`);
    } else if (model && table.digest !== postgres.digestAt(model, at)) {
      world.broke(
        'projection',
        `${name} at ${sink.position.seq} (${sink.position.lsn}) differs from the database: ${difference(postgres, model, sink)}`,
      );
    }
  }
}

function isConverged(cluster: Cluster, { tables }: Workload): boolean {
  return !cluster.ledger.missing() && tables.every((table) => isEqual(cluster, table));
}

function isEqual({ sink }: Cluster, { name, digest }: ModelTable): boolean {
  const held = sink.tables.get(name);
  // A snapshot that the broker lost after the sink had met its beginning does not end; the rows are what they were.
  return held?.whole === true && held.digest === digest;
}

function checkContent(world: World, postgres: PostgresModel, sink: SinkModel): void {
  if (world.violation) return;
  for (const model of postgres.tables.values()) {
    const held = sink.tables.get(model.name)?.rows ?? new Map();
    const same =
      held.size === model.rows.size &&
      (model.key.length === 0
        ? contents(held.values()) === contents(model.rows.values())
        : [...model.rows].every(([key, row]) => row.every((cell, index) => held.get(key)?.[index] === cell)));
    if (!same) world.broke('projection', `${model.name} differs from the database when all is done`);
  }
}

/** All rows, whatever their order, as often as they are there. */
function contents(rows: Iterable<readonly Cell[]>): string {
  return [...rows]
    .map((row) => JSON.stringify(row))
    .sort()
    .join('\n');
}

/** The first row that differs, for whoever looks for the reason; by what the WAL says up to where the sink stands. */
function difference(postgres: PostgresModel, model: ModelTable, sink: SinkModel): string {
  const rows = new Map<string, { values: Values; by: Transaction }>();
  for (const transaction of postgres.wal) {
    if (transaction.commitLsn > sink.position.lsn) break;
    for (const { table, op, from, row, key } of transaction.changes) {
      if (table !== model) continue;
      if (op === 'truncate') rows.clear();
      if (from !== null) rows.delete(from);
      if (row) rows.set(key, { values: row, by: transaction });
    }
  }
  const held = sink.table(model.name).rows;
  for (const [key, { values, by }] of rows) {
    const cells = held.get(key);
    const told = `row ${JSON.stringify(key)} of xid ${by.xid} (commit ${by.commitLsn})`;
    if (!cells) return `${told} is missing`;
    const wrong = values.findIndex((value, index) => value !== cells[index]);
    if (wrong !== -1)
      return `${told} has ${JSON.stringify(cells[wrong]?.slice(0, 20))}, not ${JSON.stringify(values[wrong]?.slice(0, 20))}`;
  }
  return `row ${JSON.stringify([...held.keys()].find((key) => !rows.has(key)))} should be gone`;
}
