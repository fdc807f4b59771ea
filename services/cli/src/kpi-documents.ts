import { createHash } from 'node:crypto';
import { type Config, configReading, type KpiConfig, type KpiReader, mayShareTables, readsAll } from '@tributary/config';
import type { DocumentChanged, KpiDocument, KpiDocuments as Documents } from '@tributary/console';
import { type Clock, Fault } from '@tributary/core';
import { environment } from '@tributary/ops';
import { outlastingElection } from './cluster.ts';
import { type ApiDocument, type Desired, type DesiredState, filesOf } from './desired.ts';

/** Somebody else may be faster so often. */
const TRIES = 5;

/**
 * Definitions of KPIs that come over HTTP, in the desired state of the cluster: with the next state, every worker has them. A change
 * names what it takes the place of, so none is lost; the state's own revision decides between two at one moment.
 */
export class KpiDocuments implements Documents {
  readonly #state: DesiredState;
  readonly #clock: Clock;

  constructor(state: DesiredState, clock: Clock) {
    this.#state = state;
    this.#clock = clock;
  }

  async find(name: string): Promise<KpiDocument | null> {
    const desired = await this.#read();
    return desired && documentIn(desired, name);
  }

  /** A broker that is slow for a moment, or elects a leader, is waited for: whoever defines a KPI sends it once. */
  #read() {
    return outlastingElection(() => this.#state.read());
  }

  async put(name: string, text: string, change: { over: string | null; reader: KpiReader | null }): Promise<DocumentChanged> {
    const { holdsSecret } = await configReading();
    if (holdsSecret([{ name, text }]))
      throw new Fault('config_invalid', `Kpi ${name}: a secret is written out; a definition that comes over HTTP holds none`);
    return this.#change(name, change, async (desired) => {
      const known = desired.documents.find((one) => one.name === name);
      if (known?.text === text) return desired;
      const document: ApiDocument = { name, text, version: (known?.version ?? 0) + 1, at: this.#clock.now() };
      const next = { ...desired, documents: [...desired.documents.filter((one) => one !== known), document] };
      const { configOf } = await configReading();
      const config = configOf([...next.files, ...filesOf(next.documents)], { env: environment() });
      assertMayDefine(config, config.kpis.find((one) => one.name === name) as KpiConfig, change.reader);
      return next;
    });
  }

  remove(name: string, change: { over: string | null; reader: KpiReader | null }): Promise<DocumentChanged> {
    return this.#change(name, change, async (desired) => ({
      ...desired,
      documents: desired.documents.filter((one) => one.name !== name),
    }));
  }

  async #change(
    name: string,
    { over, reader }: { over: string | null; reader: KpiReader | null },
    next: (desired: Desired) => Promise<Desired>,
  ): Promise<DocumentChanged> {
    for (let tries = 1; ; tries++) {
      const before = await this.#read();
      if (!before)
        throw new Fault('config_invalid', 'nothing was applied to this cluster yet: run "tributary apply -f FILE…" first');
      const found = await documentIn(before, name);
      if (found?.origin === 'file' || (found?.tag ?? null) !== over) return { changed: false, document: found };
      const { configWith } = await configReading();
      const { config } = configWith(before.files, filesOf(before.documents), { env: environment() });
      const running = config.kpis.find((one) => one.name === name);
      if (running && !readsAll(running, reader ?? undefined))
        throw new Fault('access_refused', `Kpi ${name}: it is for those to change who may read all of it`, { kpi: name });
      const { files, documents } = await next(before);
      try {
        if (documents !== before.documents) await this.#state.write({ files, documents }, before.revision, this.#clock.now());
        return { changed: true, document: await documentIn({ files, documents }, name) };
      } catch (error) {
        const faster = error instanceof Fault && (await this.#read())?.revision !== before.revision;
        if (!faster || tries === TRIES) throw error;
      }
    }
  }
}

async function documentIn({ files, documents }: Desired, name: string): Promise<KpiDocument | null> {
  const found = documents.find((one) => one.name === name);
  if (found) {
    const digest = createHash('sha256').update(found.text).digest('hex').slice(0, 12);
    return { origin: 'api', version: found.version, text: found.text, tag: `${found.version}-${digest}` };
  }
  const { fileOf } = await configReading();
  const file = fileOf(files, 'Kpi', name);
  return file === null ? null : { origin: 'file', file };
}

/**
 * Values are for everyone whom the definition lets read them: so it may read no table of a KPI that hides rows from its author.
 * @throws Fault `access_refused`
 */
function assertMayDefine(config: Config, kpi: KpiConfig, reader: KpiReader | null): void {
  const hidden = config.kpis.find(
    (one) => one.name !== kpi.name && mayShareTables(one, kpi, config) && !readsAll(one, reader ?? undefined),
  );
  if (!hidden) return;
  throw new Fault(
    'access_refused',
    `Kpi ${hidden.name} does not show this token all of its rows: Kpi ${kpi.name}, which reads a table of it, would`,
    { kpi: hidden.name },
  );
}
