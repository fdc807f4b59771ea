import { createHash } from 'node:crypto';
import {
  type Config,
  configReading,
  type KpiConfig,
  type KpiReader,
  mayShareTables,
  type ProcessConfig,
  readsAll,
} from '@tributary/config';
import type { Definition, DefinitionChanged, DefinitionName, Definitions } from '@tributary/console';
import { type Clock, Fault } from '@tributary/core';
import { environment } from '@tributary/ops';
import { outlastingElection } from './cluster.ts';
import { type ApiDocument, type Desired, type DesiredState, filesOf, kindOf } from './desired.ts';

/** Somebody else may be faster so often. */
const TRIES = 5;

/**
 * Definitions of KPIs and processes that come over HTTP, in the desired state of the cluster: with the next state, every worker has
 * them. A change names what it takes the place of, so none is lost; the state's own revision decides between two at one moment.
 */
export class StoredDefinitions implements Definitions {
  readonly #state: DesiredState;
  readonly #clock: Clock;

  constructor(state: DesiredState, clock: Clock) {
    this.#state = state;
    this.#clock = clock;
  }

  async find(of: DefinitionName): Promise<Definition | null> {
    const desired = await this.#read();
    return desired && definitionIn(desired, of);
  }

  /** A broker that is slow for a moment, or elects a leader, is waited for: whoever defines something sends it once. */
  #read() {
    return outlastingElection(() => this.#state.read());
  }

  async put(
    of: DefinitionName,
    text: string,
    change: { over: string | null; reader: KpiReader | null },
  ): Promise<DefinitionChanged> {
    const { kind, name } = of;
    const { holdsSecret } = await configReading();
    if (holdsSecret([{ name, text }]))
      throw new Fault('config_invalid', `${kind} ${name}: a secret is written out; a definition that comes over HTTP holds none`);
    return this.#change(of, change, async (desired) => {
      const known = desired.documents.find(isOf(of));
      if (known?.text === text) return desired;
      const document: ApiDocument = { kind, name, text, version: (known?.version ?? 0) + 1, at: this.#clock.now() };
      const next = { ...desired, documents: [...desired.documents.filter((one) => one !== known), document] };
      const { configOf } = await configReading();
      const config = configOf([...next.files, ...filesOf(next.documents)], { env: environment() });
      const defined = (kind === 'Kpi' ? config.kpis : config.processes).find((one) => one.name === name);
      assertMayDefine(config, { kind, defined: defined as KpiConfig | ProcessConfig }, change.reader);
      return next;
    });
  }

  remove(of: DefinitionName, change: { over: string | null; reader: KpiReader | null }): Promise<DefinitionChanged> {
    const is = isOf(of);
    return this.#change(of, change, async (desired) => ({
      ...desired,
      documents: desired.documents.filter((one) => !is(one)),
    }));
  }

  async #change(
    of: DefinitionName,
    { over, reader }: { over: string | null; reader: KpiReader | null },
    next: (desired: Desired) => Promise<Desired>,
  ): Promise<DefinitionChanged> {
    for (let tries = 1; ; tries++) {
      const before = await this.#read();
      if (!before)
        throw new Fault('config_invalid', 'nothing was applied to this cluster yet: run "tributary apply -f FILE…" first');
      const found = await definitionIn(before, of);
      if (found?.origin === 'file' || (found?.tag ?? null) !== over) return { changed: false, document: found };
      await assertMayChange(before, of, reader);
      const { files, documents } = await next(before);
      try {
        if (documents !== before.documents) await this.#state.write({ files, documents }, before.revision, this.#clock.now());
        return { changed: true, document: await definitionIn({ files, documents }, of) };
      } catch (error) {
        const faster = error instanceof Fault && (await this.#read())?.revision !== before.revision;
        if (!faster || tries === TRIES) throw error;
      }
    }
  }
}

function isOf({ kind, name }: DefinitionName): (document: ApiDocument) => boolean {
  return (document) => kindOf(document) === kind && document.name === name;
}

async function definitionIn({ files, documents }: Desired, of: DefinitionName): Promise<Definition | null> {
  const found = documents.find(isOf(of));
  if (found) {
    const digest = createHash('sha256').update(found.text).digest('hex').slice(0, 12);
    return { origin: 'api', version: found.version, text: found.text, tag: `${found.version}-${digest}` };
  }
  const { documentIn, holdsSecret } = await configReading();
  const stands = documentIn(files, of.kind, of.name);
  if (!stands) return null;
  const { file, text } = stands;
  return { origin: 'file', file, text: holdsSecret([{ name: file, text }]) ? null : text };
}

/** Of KPIs, some are not for everyone. @throws Fault `access_refused` */
async function assertMayChange(before: Desired, { kind, name }: DefinitionName, reader: KpiReader | null): Promise<void> {
  if (kind !== 'Kpi') return;
  const { configWith } = await configReading();
  const { config } = configWith(before.files, filesOf(before.documents), { env: environment() });
  const running = config.kpis.find((one) => one.name === name);
  if (running && !readsAll(running, reader ?? undefined))
    throw new Fault('access_refused', `Kpi ${name}: it is for those to change who may read all of it`, { kpi: name });
}

/**
 * Values are for everyone whom the definition lets read them, and maps and variants of a process for every viewer: so none may read a
 * table of a KPI that hides rows from its author.
 * @throws Fault `access_refused`
 */
function assertMayDefine(
  config: Config,
  { kind, defined }: { readonly kind: DefinitionName['kind']; readonly defined: KpiConfig | ProcessConfig },
  reader: KpiReader | null,
): void {
  const hidden = config.kpis.find(
    (one) =>
      !(kind === 'Kpi' && one.name === defined.name) &&
      mayShareTables(one, defined, config) &&
      !readsAll(one, reader ?? undefined),
  );
  if (!hidden) return;
  throw new Fault(
    'access_refused',
    `Kpi ${hidden.name} does not show this token all of its rows: ${kind} ${defined.name}, which reads a table of it, would`,
    { kpi: hidden.name },
  );
}
