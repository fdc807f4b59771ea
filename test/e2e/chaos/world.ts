import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { createLedger } from '../../fixtures/ledger.ts';
import { NatsCluster } from '../../fixtures/nats-cluster.ts';
import { loadRentals } from '../../fixtures/rentals.ts';
import { TcpProxy } from '../../fixtures/tcp-proxy.ts';
import { Warden } from '../../fixtures/warden.ts';
import { Worker } from '../../fixtures/worker.ts';

export const SOURCES = ['alpha', 'beta', 'gamma'] as const;
const SERVICES = ['source', 'source', 'source', 'sink', 'sink', 'console'] as const;

/** A worker and its own way to every NATS server. */
export interface Place {
  readonly worker: Worker;
  readonly service: (typeof SERVICES)[number];
  readonly links: readonly TcpProxy[];
}

/**
 * The cluster that is hurt: three NATS servers, one PostgreSQL server with three source databases and one with the ODS,
 * six workers that reach NATS through proxies of their own and share no folder but the lake.
 */
export class World {
  readonly nats: NatsCluster;
  readonly sources: PostgresServer;
  readonly ods: PostgresServer;
  readonly places: readonly Place[];
  /** Places that a fault has in its hands at the moment. */
  readonly hurt = new Set<Place>();
  readonly #folder: string;
  readonly #warden: Warden;

  private constructor(parts: Pick<World, 'nats' | 'sources' | 'ods' | 'places'>, folder: string, warden: Warden) {
    this.#folder = folder;
    this.nats = parts.nats;
    this.sources = parts.sources;
    this.ods = parts.ods;
    this.places = parts.places;
    this.#warden = warden;
  }

  /** @param logs folder for the logs of workers and servers, which outlives the world */
  static async open(logs: string): Promise<World> {
    const folder = await temporaryFolder('chaos');
    const warden = new Warden(folder);
    const parts: { stop(): Promise<void> }[] = [];
    const opened = <T extends { stop(): Promise<void> }>(part: T) => {
      parts.push(part);
      return part;
    };
    try {
      const [nats, sources, ods] = await Promise.all([
        NatsCluster.start(join(folder, 'nats')).then(opened),
        startPostgres({ dir: join(folder, 'sources'), databases: SOURCES }).then(opened),
        startPostgres({ dir: join(folder, 'ods'), databases: ['ods'] }).then(opened),
      ]);
      const config = join(folder, 'tributary.yaml');
      await writeFile(config, configuration({ sources, ods, lake: join(folder, 'lake') }));
      const places = await Promise.all(
        SERVICES.map(async (service, i): Promise<Place> => {
          const name = `${service}-${i + 1}`;
          const links = await Promise.all(nats.ports.map(async (port) => opened(await TcpProxy.start(port))));
          const own = join(folder, name);
          await mkdir(own);
          const url = links.map(({ port }) => `nats://127.0.0.1:${port}`).join(',');
          const args = [service, '-f', config, '--data', own, '--nats', url, '--port', '0'];
          return {
            service,
            links,
            worker: new Worker({ name, args, folder: own, logFile: join(logs, `${name}.log`), warden }),
          };
        }),
      );
      return new World({ nats, sources, ods, places }, folder, warden);
    } catch (error) {
      await Promise.allSettled(parts.map((part) => part.stop()));
      await warden.close();
      throw error;
    }
  }

  /** Tables, rows and ledgers of every source. */
  async fill(): Promise<void> {
    for (const source of SOURCES) {
      const client = new Client({ connectionString: this.sources.url(source) });
      await client.connect();
      try {
        await loadRentals(client);
        await createLedger(client);
      } finally {
        await client.end();
      }
    }
  }

  async start(): Promise<void> {
    await Promise.all(this.places.map(({ worker }) => worker.start()));
  }

  /** Puts the servers' logs beside those of the workers. */
  async keepLogs(logs: string): Promise<void> {
    const kept = [...this.nats.names.map((name) => `nats/${name}/nats.log`), 'sources/postgres.log', 'ods/postgres.log'];
    await Promise.all(kept.map((file) => copyFile(join(this.#folder, file), join(logs, file.replaceAll('/', '-')))));
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.places.map(({ worker }) => worker.kill()));
    await Promise.allSettled(this.places.flatMap(({ links }) => links.map((link) => link.stop())));
    await Promise.allSettled([this.nats.stop(), this.sources.stop(), this.ods.stop()]);
    await this.#warden.close();
  }
}

function configuration({ sources, ods, lake }: { sources: PostgresServer; ods: PostgresServer; lake: string }): string {
  const cluster = `kind: Cluster
nats: { replicas: 3 }
lake: { url: "file:${lake}" }
`;
  const captured = SOURCES.map(
    (name) => `kind: Source
name: ${name}
postgres: "${sources.url(name)}"
`,
  );
  const sinks = `kind: Sink
name: ods
type: ods
from: ["*"]
postgres: "${ods.url('ods')}"
---
kind: Sink
name: lake
type: lake
from: ["*"]
flush: { every: 5s, bytes: 16MiB }
compact: { every: 30s }
`;
  return [cluster, ...captured, sinks].join('---\n');
}
