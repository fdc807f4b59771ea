import { type ConfigFile, configReading, type DocumentChange } from '@tributary/config';
import { systemClock } from '@tributary/core';
import { environment } from '@tributary/ops';
import { connect, type Where } from '../addresses.ts';
import { outlastingElection } from '../cluster.ts';
import { assertNotTaken, DesiredState, filesOf, kindOf } from '../desired.ts';
import type { Output } from '../output.ts';

export interface ApplyOptions extends Where {
  readonly file: readonly string[];
}

const SIGN = { added: '+', changed: '~', removed: '-' } as const;

/** Puts the files in the place of the cluster's desired state; workers go over to it by themselves. */
export async function apply(options: ApplyOptions, output: Output): Promise<void> {
  await withState(options, async (state, { files, before, changes }) => {
    if (changes.length > 0)
      await state.write({ files, documents: before?.documents ?? [] }, before?.revision ?? 0, systemClock.now());
    if (output.json) output.value({ applied: changes.length > 0, changes });
    else if (changes.length === 0) output.line('Nothing to change: the cluster wants this already.');
    else show(changes, output);
    for (const { change, kind, name } of changes) {
      if (change !== 'removed' || kind !== 'Source') continue;
      process.stderr.write(
        `Source ${name} is no longer captured, but its slot keeps WAL on its server until you run there: SELECT pg_drop_replication_slot('tributary_${name}');\n`,
      );
    }
  });
}

/** Shows what {@link apply} would change, and changes nothing. */
export async function diff(options: ApplyOptions, output: Output): Promise<void> {
  await withState(options, async (_state, { before, changes }) => {
    const api = (before?.documents ?? []).map((one) => ({ kind: kindOf(one), name: one.name, version: one.version }));
    if (output.json) return output.value({ applied: before !== null, changes, ...(api.length > 0 ? { api } : {}) });
    if (before === null) output.line('Nothing was applied yet: workers run the files they were started with.');
    else if (changes.length === 0) output.line('No difference.');
    show(changes, output);
    for (const { kind, name, version } of api)
      output.line(`= ${kind} ${name} (defined over HTTP, version ${version}; left alone)`);
  });
}

interface Compared {
  readonly files: readonly ConfigFile[];
  readonly before: Awaited<ReturnType<DesiredState['read']>>;
  readonly changes: readonly DocumentChange[];
}

async function withState(options: ApplyOptions, work: (state: DesiredState, compared: Compared) => Promise<void>): Promise<void> {
  const { compareDocuments, configOf, readFiles } = await configReading();
  const files = await readFiles(options.file);
  // Checked before anything is asked of the cluster: what is wrong here must not reach a worker.
  configOf(files, { env: environment() });
  const { broker } = await connect(options);
  try {
    const state = new DesiredState(broker.kv, options.data);
    const before = await outlastingElection(() => state.read());
    // Together with what came over HTTP, too: a source that a definition reads there must not go unnoticed.
    const documents = before?.documents ?? [];
    await assertNotTaken({ files, documents });
    if (documents.length > 0) configOf([...files, ...filesOf(documents)], { env: environment() });
    await work(state, { files, before, changes: compareDocuments(before?.files ?? [], files) });
  } finally {
    await broker.close();
  }
}

function show(changes: readonly DocumentChange[], output: Output): void {
  for (const { change, kind, name } of changes) output.line(`${SIGN[change]} ${kind}${name === null ? '' : ` ${name}`}`);
}
