import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { aborted } from '@tributary/cluster';
import { configReading } from '@tributary/config';
import { systemClock } from '@tributary/core';
import { type PostgresServer, startPostgres } from '@tributary/embedded';
import { environment, openLog, stopSignal, workerName } from '@tributary/ops';
import { claimFolder } from '../addresses.ts';
import { Customers } from '../demo/customers.ts';
import type { Output } from '../output.ts';
import { System } from '../system.ts';

export interface DemoOptions {
  readonly data: string;
  readonly port?: string;
  readonly rate: string;
}

/** Everything on embedded servers: three teams' databases with customers at work, all services, one console. Until Ctrl-C. */
export async function demo(options: DemoOptions, output: Output): Promise<void> {
  const stop = stopSignal();
  const say = (text: string) => process.stderr.write(`${text}\n`);
  const data = options.data;
  await claimFolder(data);
  say('Starting PostgreSQL, NATS and all services …');
  const postgres = await startPostgres({
    dir: join(data, 'postgres'),
    databases: ['shop', 'payments', 'logistics', 'ods'],
    settings: { max_wal_size: '256MB', max_slot_wal_keep_size: '2GB' },
  });
  let system: System | null = null;
  try {
    const file = await writeConfig(data, postgres);
    const { configOf, readFiles } = await configReading();
    const files = await readFiles([file]);
    const config = configOf(files, { env: environment() });
    const [shop, payments, logistics] = config.sources.map((source) => source.postgres);
    if (!shop || !payments || !logistics) throw new Error('the demo has three sources');
    const customers = new Customers({
      databases: { shop, payments, logistics },
      clock: systemClock,
      rate: Number(options.rate),
      random: Math.random,
    });
    await customers.prepare();
    // Quiet unless something is wrong: the console shows the rest.
    const level = environment()['TRIBUTARY_LOG'] ?? 'warn';
    const port = options.port === undefined ? {} : { port: Number(options.port) };
    system = await System.start({
      files,
      config,
      data,
      log: openLog({ worker: workerName(), level }),
      logLevel: level,
      say,
      ...port,
    });
    await Promise.race([system.ready(stop), system.died()]);
    if (stop.aborted) return;
    if (output.json) output.value({ ready: true, console: system.console });
    else greet(output, system.console, { data, file });
    const working = customers.run(stop);
    await Promise.race([aborted(stop), system.died(), working]);
    say('\nStopping …');
    await working;
  } finally {
    await system?.stop();
    await postgres.stop();
  }
}

function greet(output: Output, url: string, { data, file }: { data: string; file: string }): void {
  const at = data === './.tributary' ? '' : ` --data ${data}`;
  output.line(`
  Console   ${url}
  Config    ${file}

  Try, in another terminal:
    npx tributary status${at}
    npx tributary tail shop${at}
    npx tributary query${at} "SELECT status, count(*), sum(total) FROM shop.orders GROUP BY 1 ORDER BY 2 DESC"
    npx tributary process map order_to_delivery${at}
    npx tributary process cases order_to_delivery --state violated${at}
    npx tributary alert list${at}
    npx tributary verify${at}

  Ctrl-C stops everything.
`);
}

async function writeConfig(data: string, postgres: PostgresServer): Promise<string> {
  const folder = join(data, 'demo');
  await mkdir(folder, { recursive: true });
  const file = join(folder, 'tributary.yaml');
  const sources = ['shop', 'payments', 'logistics'].map(
    (name) => `---\nkind: Source\nname: ${name}\npostgres: "${postgres.url(name)}"\n`,
  );
  await writeFile(
    file,
    `# Written by "tributary demo" at every start.
kind: Cluster
changelog: { maxAge: 24h, maxBytes: 2GiB }
${sources.join('')}---
kind: Sink
name: ods
type: ods
postgres: "${postgres.url('ods')}"
---
kind: Sink
name: lake
type: lake
flush: { every: 30s }
compact: { every: 5m }
---
# An order's way from placing over payment to parcel, through three databases that share nothing but its id.
kind: Process
name: order_to_delivery
root: order
objects:
  order:   { table: shop.orders, state: status, created: state }
  payment: { table: payments.payments, state: status, of: { order: order_id }, created: state }
  refund:  { table: payments.refunds, of: { payment: payment_id } }
  parcel:  { table: logistics.parcels, state: status, of: { order: order_id }, created: state }
  scan:    { table: logistics.scans, of: { parcel: parcel_id } }
events:
  - { name: place order, when: order.insert, with: [order_items.insert] }
done: "order.status in ('delivered', 'cancelled', 'returned')"
allowed: { order: ">placed; placed>paid|cancelled; paid>packed; packed>shipped; shipped>delivered; delivered>returned" }
rules:
  - { name: pay_before_ship, precedence: [payment.captured, parcel.shipped], severity: critical }
  - { name: ship_in_30s, response: [payment.captured, parcel.shipped], within: 30s }
sla: { cycle: { target: 2m }, stage: { order.packed: 40s } }
# What is usual is learned.
stuck: { quantile: 0.99, min_cases: 50 }
alerts: [{ on: [rule, sla, stuck, missing] }]
`,
  );
  return file;
}
