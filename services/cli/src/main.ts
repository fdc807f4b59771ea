import { createRequire } from 'node:module';
import { Command, InvalidArgumentError } from 'commander';
import type { apply } from './commands/apply.ts';
import type { demo } from './commands/demo.ts';
import type { KpiOptions } from './commands/kpi.ts';
import type { AlertOptions } from './commands/alert.ts';
import type { ProcessOptions } from './commands/process.ts';
import type { QuarantineOptions } from './commands/quarantine.ts';
import type { runOne } from './commands/run.ts';
import type { schemaDiff } from './commands/schema-diff.ts';
import type { status } from './commands/status.ts';
import type { tail } from './commands/tail.ts';
import type { TransformOptions } from './commands/transform.ts';
import type { up } from './commands/up.ts';
import type { verify } from './commands/verify.ts';
import type { compact, query, replay, snapshot } from './commands/work.ts';
import { flushed, openOutput, type Output, tellError } from './output.ts';

const { version } = createRequire(import.meta.url)('../package.json') as { version: string };

type Options = Record<string, never> & { json?: boolean };

/** Runs a command, of which each loads only what it needs; its outcome is the exit code. */
async function run(work: (output: Output) => Promise<unknown>, options: { json?: boolean }): Promise<void> {
  const output = openOutput(options.json === true);
  try {
    if ((await work(output)) === false) process.exitCode = 1;
  } catch (error) {
    tellError(error);
    process.exitCode = 1;
  }
}

function port(text: string): string {
  const number = Number(text);
  if (!Number.isInteger(number) || number < 0 || number > 65_535)
    throw new InvalidArgumentError('expected a port between 0 and 65535 (0 = any free one)');
  return text;
}

function share(text: string): string {
  if (!(Number(text) > 0 && Number(text) <= 1_000)) throw new InvalidArgumentError('expected a number above 0, at most 1000');
  return text;
}

const program = new Command('tributary')
  .description(
    'Streams every row change of PostgreSQL databases into one durable changelog each, and into the forms people need.',
  )
  .version(version)
  .showHelpAfterError('(see tributary --help)');

/** A command that talks to a running system. */
const talking = (name: string, description: string, under = program) =>
  under
    .command(name)
    .description(description)
    .option('--data <dir>', 'folder of the running system', './.tributary')
    .option('--nats <url>', 'broker of the running system')
    .option('--json', 'print JSON');
const collect = (value: string, before: string[]) => [...before, value];

program
  .command('up')
  .description('run all services in one process')
  .requiredOption('-f, --file <file>', 'config file or folder (may be repeated)', collect, [])
  .option('--data <dir>', 'where state lives', './.tributary')
  .option('--nats <url>', 'use this broker instead of an embedded one')
  .option('--port <port>', 'of the console', port)
  .option('--json', 'print the ready line as JSON')
  .action((options: Options & Parameters<typeof up>[0]) =>
    run(async (output) => (await import('./commands/up.ts')).up(options, output), options),
  );
program
  .command('demo')
  .description('three embedded databases with customers at work, all services, and the console')
  .option('--data <dir>', 'where everything lives', './.tributary')
  .option('--port <port>', 'of the console', port)
  .option('--rate <n>', 'business steps a second', '40')
  .option('--json', 'print the ready line as JSON')
  .action((options: Options & Parameters<typeof demo>[0]) =>
    run(async (output) => (await import('./commands/demo.ts')).demo(options, output), options),
  );
program
  .command('run <service>')
  .description('run one service (source, transform, sink, kpi, monitor, console) as one process of a cluster')
  .requiredOption('-f, --file <file>', 'config file or folder (may be repeated)', collect, [])
  .option('--data <dir>', 'where state lives', './.tributary')
  .option('--nats <url>', 'the broker')
  .option('--port <port>', 'of the console, or of /healthz, /readyz and /metrics (0 = any free one; default: none)', port)
  .option('--labels <k=v>', 'labels of this worker (may be repeated)', collect, [])
  .option('--capacity <n>', "its share of the work, beside the other workers'", share, '1')
  .option('--json', 'print JSON')
  .action((service: string, options: Options & Parameters<typeof runOne>[1]) =>
    run(async (output) => (await import('./commands/run.ts')).runOne(service, options, output), options),
  );
program
  .command('check')
  .description('validate config, connect everywhere, and say what is in the way and how to mend it')
  .requiredOption('-f, --file <file>', 'config file or folder (may be repeated)', collect, [])
  .option('--json', 'print JSON')
  .action((options: Options & { file: string[] }) =>
    run(async (output) => (await import('./commands/check.ts')).check(options.file, output), options),
  );
const schemas = program
  .command('schema')
  .description('print the JSON Schema of config documents')
  .action(() => run(async (output) => (await import('./commands/check.ts')).schema(output), {}));
talking(
  'diff [table]',
  'how the schema of every table (or of SOURCE, SOURCE.SCHEMA.TABLE) changed: what, where, when',
  schemas,
).action((what: string | undefined, options: Options & Parameters<typeof schemaDiff>[1]) =>
  run(async (output) => (await import('./commands/schema-diff.ts')).schemaDiff(what, options, output), options),
);
const applying = (name: string, description: string) =>
  talking(name, description).requiredOption('-f, --file <file>', 'config file or folder (may be repeated)', collect, []);
applying('apply', 'make the files the desired state; workers go over to it without a restart').action(
  (options: Options & Parameters<typeof apply>[0]) =>
    run(async (output) => (await import('./commands/apply.ts')).apply(options, output), options),
);
applying('diff', 'show what apply would change').action((options: Options & Parameters<typeof apply>[0]) =>
  run(async (output) => (await import('./commands/apply.ts')).diff(options, output), options),
);
talking('status', 'sources, changelogs, projections, workers and their lags')
  .option('--wait <what>', '"caught-up": wait until every projection holds everything committed before now')
  .option('--timeout <duration>', 'for --wait', '60s')
  .action((options: Options & Parameters<typeof status>[0]) =>
    run(async (output) => (await import('./commands/status.ts')).status(options, output), options),
  );
talking('verify', 'compare every projection with its source')
  .option('--source <name>', 'only this source')
  .option('--table <table>', 'only this table')
  .option('--repair', 'read what differs again from the source, and compare again')
  .option('--timeout <duration>', 'for catching up first', '120s')
  .action((options: Options & Parameters<typeof verify>[0]) =>
    run(async (output) => (await import('./commands/verify.ts')).verify(options, output), options),
  );
talking('tail <source>', 'print changes (SOURCE or SOURCE.SCHEMA.TABLE) as JSON lines')
  .option('--types', 'with the first change of each shape of a table, the types of its columns: a fixture for kpi test')
  .option('--from <place>', 'start, now, a position (LSN or LSN+ORDINAL) or a time', 'now')
  .option('--limit <n>', 'stop after so many changes')
  .option('--until-caught-up', 'stop at what the changelog holds now')
  .action((source: string, options: Options & Parameters<typeof tail>[1]) =>
    run(async (output) => (await import('./commands/tail.ts')).tail(source, options, output), options),
  );
talking('snapshot <source>', 'read tables again and reconcile them')
  .option('--table <table>', 'only this table')
  .option('--where <sql>', 'only rows that meet this condition')
  .action((source: string, options: Options & Parameters<typeof snapshot>[1]) =>
    run(async (output) => (await import('./commands/work.ts')).snapshot(source, options, output), options),
  );
talking('replay <projection>', 'set a sink (or SINK/SOURCE) back to a place in history and let it run from there')
  .option('--from <place>', 'start (rebuilds it), a position (LSN or LSN+ORDINAL) or a time (ISO 8601)', 'start')
  .action((name: string, options: Options & Parameters<typeof replay>[1]) =>
    run(async (output) => (await import('./commands/work.ts')).replay(name, options, output), options),
  );
talking('quarantine <action> [projection] [table]', 'changes that could not be applied: list, show, retry or drop them')
  .option('--rows', 'with show: print the rows too')
  .action((action: string, projection: string | undefined, name: string | undefined, options: Options & QuarantineOptions) =>
    run(
      async (output) => (await import('./commands/quarantine.ts')).quarantine(action, { projection, name }, { options, output }),
      options,
    ),
  );
talking('compact', 'flush and compact the lake now')
  .option('--table <table>', 'only if it holds this table')
  .action((options: Options & Parameters<typeof compact>[0]) =>
    run(async (output) => (await import('./commands/work.ts')).compact(options, output), options),
  );
talking('query <sql>', 'read-only SQL over the compacted tables')
  .option('--format <format>', 'table, json, csv or arrow (redirect it to a file)')
  .option('--as-of <place>', 'not built yet')
  .action((sql: string, options: Options & Parameters<typeof query>[1]) =>
    run(async (output) => (await import('./commands/work.ts')).query(sql, options, output), options),
  );
talking(
  'kpi <action> [name]',
  'KPIs: list, show NAME, values NAME, rows NAME, revisions NAME, preview -f FILE, validate -f FILE, test -f FILE, backfill NAME',
)
  .option('--grain <grain>', 'minute, hour, day, week, month, quarter or year')
  .option('--measure <names>', 'only these, separated by commas')
  .option('--from <time>', 'buckets from there (without an offset: in the zone of the KPI)')
  .option('--to <time>', 'buckets before')
  .option('--by <dimensions>', 'divide by these, separated by commas, or by none (default: all)')
  .option('--filter <dimension=value>', 'only these rows (may be repeated)', collect, [])
  .option('--fill <what>', 'empty: show buckets without rows too')
  .option('--as-of <place>', 'as it was: a time (ISO 8601), or the position of an earlier answer')
  .option('--bucket <time>', 'with rows: a time in the bucket whose rows are wanted')
  .option('--format <format>', 'of values: table, json, csv, ndjson, parquet or arrow (redirect the last two to a file)')
  .option('-f, --file <file>', 'with preview, validate and test: config file or folder (may be repeated)', collect, [])
  .action((action: string, name: string | undefined, options: Options & KpiOptions) =>
    run(async (output) => (await import('./commands/kpi.ts')).kpi(action, name, options, output), options),
  );
talking('alert <action> [id]', 'alerts of sources, KPIs and processes: list them, or ack ID (take note of one)')
  .option('--all', 'list: also those that are over')
  .option('--by <name>', 'ack: who takes note', 'local')
  .action((action: string, id: string | undefined, options: Options & AlertOptions) =>
    run(async (output) => (await import('./commands/alert.ts')).alertCommand(action, id, { options, output }), options),
  );
talking('transform <action> [name]', 'transforms: preview [NAME] -f FILE (what it would make, beside what it makes now)')
  .option('-f, --file <file>', 'config file or folder (may be repeated)', collect, [])
  .option('--samples <n>', 'rows that are shown of each kind of difference', '3')
  .action((action: string, name: string | undefined, options: Options & TransformOptions) =>
    run(async (output) => (await import('./commands/transform.ts')).transform(action, name, { options, output }), options),
  );
talking(
  'process <action> [name...]',
  'processes: list; discover; problems (what is wrong, and in which cases), map, variants, cases, bottlenecks, wip, drift or export NAME; spectrum NAME "A>B"; timeline NAME TYPE KEY; replay NAME -f FILE (what other rules would have said); import FILE (XES, CSV, OCEL 2.0 JSON); allowed FILE.bpmn --object TYPE (which state may follow which, as a definition writes it)',
)
  .option('--name <name>', 'import: what to call it; default: after the file')
  .option('--case <column>', 'cases: this one alone; import of CSV: the column of the case')
  .option('--activity <column>', 'import of CSV: the column of the activity')
  .option('--time <column>', 'import of CSV: the column of the time')
  .option('--root <type>', 'import of OCEL: the type whose objects are the cases')
  .option('--from <time>', 'only what happened from then on')
  .option('--to <time>', 'only what happened before')
  .option('--object <type>', 'the life of objects of this type instead of the root')
  .option('--min-share <share>', 'map: leave out edges that are less than this share of all steps')
  .option('--limit <n>', 'variants, cases, timeline, spectrum: at most so many; problems: cases that are named of each')
  .option('--format <format>', 'export: ocel2-json, xes or csv; map: json, svg or dot; wip, spectrum: json or svg')
  .option('--write <file>', 'discover, export, pictures: into this file')
  .option('--state <state>', 'cases: open, done, met (its beginning was not seen), violated, stuck, missing or silent')
  .option('--rule <name>', 'cases: of which this rule is violated, for good or for now')
  .option('--ended <true|false>', 'cases: only those that ended, or that go on')
  .option('--sort <order>', 'cases: newest, longest or waiting')
  .option('--window <span>', 'drift: the newest stretch of time (default: 7d)')
  .option(
    '--against <span or file>',
    'drift: what it is compared with (default: 28d); replay: a file with the definition that it is compared with (default: the running one)',
  )
  .option('-f, --file <file>', 'replay: config file with the changed definition (may be repeated)', collect, [])
  .option('--alpha <share>', 'drift: how probable a false alarm may be (default: 0.001)')
  .action((action: string, name: readonly string[], options: Options & ProcessOptions) =>
    run(async (output) => (await import('./commands/process.ts')).processCommand(action, name, { options, output }), options),
  );
program
  .command('bench <name>')
  .description(
    'measure: source, snapshot, ods, kpi, process, freshness, transform, scale or scale-transform, each beside a reference in the same run',
  )
  .option('--rows <n>', 'rows to measure with')
  .option('--rate <n>', 'of freshness: row changes a second (default: 1000)')
  .option('--json', 'print JSON')
  .action((name: string, options: Options & { rows?: string; rate?: string }) =>
    run(async (output) => (await import('./bench/index.ts')).bench(name, options, output), options),
  );

await program.parseAsync();
await flushed(process.stdout, process.stderr);
// A dial of the NATS client that was under way when the connection was closed goes on (nats 2.29), and its socket would keep
// a process alive that has drained and closed everything.
process.exit();
