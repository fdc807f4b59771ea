import type { Link } from './link.ts';
import { SLOT } from './pg-model.ts';
import { type Cluster, SOURCE, Worker } from './worker.ts';

/** How often each fault comes in this world, mean ms between two; 0 = never. */
export interface FaultPlan {
  readonly crash: number;
  readonly pause: number;
  readonly partition: number;
  readonly breakConnection: number;
  readonly postgresCrash: number;
  readonly brokerCrash: number;
  /** No time but the chance that the broker crashes soon after the begin, or the end, of a table that is read in one piece. */
  readonly brokerAim: number;
  readonly sinkTrouble: number;
  readonly clockJump: number;
  readonly weather: number;
  readonly kvLoss: number;
  /** After how long the slot is dropped, once. */
  readonly slotDrop: number;
  /** No fault, but as welcome: somebody asks for another snapshot, or for a barrier. */
  readonly ask: number;
}

/** Brings the faults of a plan over the workers of a world, until it is healed. */
export class Faults {
  readonly #cluster: Cluster;
  readonly #plan: FaultPlan;
  readonly workers: Worker[] = [];
  #healed = false;
  #started = 0;

  constructor(cluster: Cluster, plan: FaultPlan, workers: number) {
    this.#cluster = cluster;
    this.#plan = plan;
    for (let i = 0; i < workers; i++) this.#startWorker(i);
  }

  start(): void {
    const { world } = this.#cluster;
    const { random } = world;
    this.#every(this.#plan.crash, () => this.#crash());
    this.#every(this.#plan.pause, () => this.#pause());
    this.#every(this.#plan.partition, () => this.#partition());
    this.#every(this.#plan.breakConnection, () => random.pick(this.#links()).break('connection reset'));
    this.#every(this.#plan.postgresCrash, () => this.#crashPostgres());
    this.#every(this.#plan.brokerCrash, () => this.#crashBroker());
    this.#cluster.ledger.readWhole = () => {
      if (random.chance(this.#plan.brokerAim)) this.#later(random.between(1, 60), () => this.#crashBroker());
    };
    this.#every(this.#plan.sinkTrouble, () => this.#troubleSink());
    this.#every(this.#plan.clockJump, () => {
      const worker = random.pick(this.workers);
      worker.clock.offset += random.pick([-600_000, -5_000, 5_000, 600_000]);
      world.tell(`wall clock of ${worker.process.name} jumps`);
    });
    this.#every(this.#plan.weather, () => this.#changeWeather());
    this.#every(this.#plan.kvLoss, () => this.#cluster.kv?.lose());
    this.#every(this.#plan.ask, () => this.#ask());
    if (this.#plan.slotDrop > 0) this.#later(this.#plan.slotDrop, () => this.#dropSlot());
  }

  /** Everything that was broken works again, for good. */
  heal(): void {
    const { world, postgres, broker, sink, weather } = this.#cluster;
    this.#healed = true;
    world.tell('healed');
    postgres.running = true;
    broker.running = true;
    sink.trouble = 'none';
    for (const one of [weather.broker, weather.postgres, weather.sink]) Object.assign(one, { delayMs: 1, lossChance: 0 });
    for (const [index, worker] of this.workers.entries()) {
      if (!worker.process.alive) this.#startWorker(index);
      if (worker.process.held) world.scheduler.resume(worker.process);
      for (const link of this.#linksOf(worker)) link.heal();
    }
  }

  #every(mean: number, happen: () => void): void {
    if (mean === 0) return;
    const { world } = this.#cluster;
    world.after(world.random.long(mean), () => {
      if (this.#healed) return;
      happen();
      this.#every(mean, happen);
    });
  }

  /** Something that ends by itself, unless everything is healed before. */
  #later(ms: number, happen: () => void): void {
    this.#cluster.world.after(ms, () => {
      if (!this.#healed) happen();
    });
  }

  #startWorker(index: number): void {
    this.workers[index] = new Worker(this.#cluster, `w${index}.${this.#started++}`);
  }

  #links(): Link[] {
    return this.workers.flatMap((worker) => this.#linksOf(worker));
  }

  #linksOf(worker: Worker): Link[] {
    return [worker.brokerLink, ...worker.databaseLinks, ...worker.sinkLinks];
  }

  #crash(): void {
    const { world } = this.#cluster;
    const index = world.random.below(this.workers.length);
    const worker = this.workers[index] as Worker;
    if (!worker.process.alive) return;
    const silent = world.random.chance(0.3);
    world.tell(`${worker.process.name} dies${silent ? ' silently' : ''}`);
    worker.crash(silent);
    this.#later(world.random.between(50, 6_000), () => this.#startWorker(index));
  }

  #pause(): void {
    const { world } = this.#cluster;
    const worker = world.random.pick(this.workers);
    if (worker.process.held || !worker.process.alive) return;
    world.tell(`${worker.process.name} is stopped`);
    world.scheduler.stop(worker.process);
    this.#later(world.random.between(100, 30_000), () => {
      world.tell(`${worker.process.name} goes on`);
      world.scheduler.resume(worker.process);
    });
  }

  #partition(): void {
    const { world } = this.#cluster;
    const { random } = world;
    const worker = random.pick(this.workers);
    const links = random.pick([[worker.brokerLink], [...worker.databaseLinks], [...worker.sinkLinks], this.#linksOf(worker)]);
    world.tell(`${worker.process.name} is cut from ${links.length} connections`);
    for (const link of links) link.cut();
    const breaks = random.chance(0.5);
    this.#later(random.between(100, 15_000), () => {
      for (const link of links) {
        if (breaks) link.break('connection timed out');
        else link.heal();
      }
    });
  }

  #ask(): void {
    const { world, postgres } = this.#cluster;
    const { random } = world;
    const worker = random.pick(this.workers);
    const table = random.pick([...postgres.tables.keys()]);
    if (!worker.process.alive) return;
    const what = random.pick(['barrier', 'snapshot'] as const);
    worker.ask(what, what === 'snapshot' && random.chance(0.7) ? { table } : {});
  }

  #crashPostgres(): void {
    const { world, postgres } = this.#cluster;
    if (!postgres.running) return;
    world.tell('PostgreSQL crashes');
    postgres.crash();
    for (const worker of this.workers) for (const link of worker.databaseLinks) link.break('server closed the connection');
    this.#later(world.random.between(200, 4_000), () => {
      postgres.running = true;
    });
  }

  #dropSlot(): void {
    const { world, postgres } = this.#cluster;
    world.tell('the slot is dropped');
    postgres.drop(SLOT);
    for (const worker of this.workers) for (const link of worker.databaseLinks) link.break('terminated by an administrator');
  }

  #crashBroker(): void {
    const { world, broker, ledger, syncMs } = this.#cluster;
    if (!broker.running || ledger.lastSeq === 0) return;
    broker.running = false;
    // A changelog that was lost as a whole is a case for an operator; its first message stays.
    const durable = Math.max(1, broker.durableSeq(syncMs, ledger.lastSeq));
    const kept = world.random.chance(0.5) ? ledger.lastSeq : durable + world.random.below(ledger.lastSeq - durable + 1);
    world.tell('the broker crashes');
    broker.lose(SOURCE, kept);
    for (const worker of this.workers) worker.brokerLink.break('broker closed the connection');
    this.#later(world.random.between(100, 3_000), () => {
      broker.running = true;
    });
  }

  #troubleSink(): void {
    const { world, sink } = this.#cluster;
    sink.trouble = world.random.pick(['reject', 'fail after write', 'hold', 'slow']);
    world.tell(`sink: ${sink.trouble}`);
    this.#later(world.random.between(100, 5_000), () => {
      sink.trouble = 'none';
    });
  }

  #changeWeather(): void {
    const { world, weather } = this.#cluster;
    const one = world.random.pick([weather.broker, weather.postgres, weather.sink]);
    const bad = world.random.chance(0.5);
    one.delayMs = bad ? world.random.between(5, 300) : 1;
    one.lossChance = bad && one === weather.broker ? world.random.pick([0, 0.01, 0.1]) : 0;
    world.tell(`weather ${one.delayMs.toFixed(1)} ms, loss ${one.lossChance}`);
  }
}
