import { type Checked, type Complaint, type Place, placeText } from './checked.ts';
import { type Config, inputsOf, lookupsOf, ROLES, type SinkConfig, type SourceConfig } from './config.ts';
import { eventsSinkOf } from './events.ts';
import { type HookConfig, hookOf } from './hooks.ts';
import * as kinds from './kinds.ts';
import { type KpiConfig, kpiOf } from './kpi.ts';
import { moduleName } from './modules.ts';
import { type ProcessConfig, processOf } from './process.ts';
import { stepOf, type TransformConfig } from './transforms.ts';

/** What documents say together, where each is right by itself. */
export function assemble(documents: readonly Checked[], complaints: Complaint[]): Config {
  const named = new Map<string, Place>();
  const sources: SourceConfig[] = [];
  const transforms: TransformConfig[] = [];
  const sinks: SinkConfig[] = [];
  const kpis: KpiConfig[] = [];
  const processes: ProcessConfig[] = [];
  const hooks: HookConfig[] = [];
  let cluster: kinds.ClusterDocument | null = null;
  const modules = new Map(documents.flatMap((one) => (one.kind === 'Module' ? [[one.value.name, one.value.code] as const] : [])));
  for (const document of documents) {
    if (document.kind === 'Cluster') {
      if (cluster) complaints.push({ ...document.place, message: 'there may be only one document of kind: Cluster' });
      cluster = document.value;
      continue;
    }
    if (document.kind === 'Module') continue;
    const id = `${idKind(document.kind)} ${document.value.name}`;
    const before = named.get(id);
    if (before) complaints.push({ ...document.place, message: `${id} is already defined at ${before.file}:${before.line}` });
    named.set(id, document.place);
    if (document.kind === 'Source') sources.push(sourceOf(document.value));
    else if (document.kind === 'Transform') transforms.push(transformOf(document, modules, complaints));
    else if (document.kind === 'Hook') hooks.push(hookOf(document.value));
    else if (document.kind === 'Kpi') kpis.push(kpiOf(document.value, (path) => placeText(document.at(path))));
    else if (document.kind === 'Process') processes.push(processOf(document.value));
    else sinks.push(sinkOf(document));
  }
  checkInputs({ sources, transforms }, named, complaints);
  if (sources.length === 0 && complaints.length === 0) {
    complaints.push({
      file: documents[0]?.place.file ?? 'config',
      message: 'no document of kind: Source; there is nothing to capture',
    });
  }
  if (sinks.length === 0) {
    sinks.push({
      type: 'lake',
      name: 'lake',
      from: ['*'],
      flush: { everyMs: 30_000, bytes: 128 * 2 ** 20 },
      compact: { everyMs: 300_000 },
    });
  }
  const tokens = cluster?.http.tokens ?? [];
  checkKpis(documents, { sources, transforms, sinks, hooks, tokens }, complaints);
  checkProcesses(documents, { sources, transforms, sinks, kpis, hooks }, complaints);
  return {
    cluster: clusterOf(cluster ?? kinds.cluster.parse({ kind: 'Cluster' })),
    sources,
    transforms,
    sinks,
    kpis,
    processes,
    hooks,
  };
}

/** Sources and transforms share their names: each is a changelog. */
function idKind(kind: Checked['kind']): string {
  if (kind === 'Source' || kind === 'Transform') return 'changelog';
  if (kind === 'Kpi' || kind === 'Process') return kind.toLowerCase();
  return kind === 'Hook' ? 'hook' : 'sink';
}

/** A transform must read something, and never, by whatever way, itself. */
function checkInputs(
  config: Pick<Config, 'sources' | 'transforms'>,
  named: ReadonlyMap<string, Place>,
  complaints: Complaint[],
): void {
  for (const transform of config.transforms) {
    const place = named.get(`changelog ${transform.name}`) as Place;
    for (const table of lookupsOf(transform)) {
      const [head] = table.split('.');
      if (config.transforms.some(({ name }) => name === head))
        complaints.push({ ...place, message: `transform ${transform.name} looks up in ${table}: ${head} is no source` });
    }
    for (const pattern of [...transform.from, ...lookupsOf(transform)]) {
      const found = inputsOf({ ...transform, from: [pattern], steps: [] }, config);
      if (found.length === 0)
        complaints.push({ ...place, message: `transform ${transform.name}: no source or transform is named as in ${pattern}` });
    }
    const seen = new Set<string>();
    const walk = (one: TransformConfig): boolean =>
      inputsOf(one, config).some((name) => {
        const next = config.transforms.find((other) => other.name === name);
        if (!next || seen.has(name)) return false;
        seen.add(name);
        return name === transform.name || walk(next);
      });
    if (walk(transform)) complaints.push({ ...place, message: `transform ${transform.name} reads what it writes` });
  }
}

function transformOf(
  { place, value, steps }: Extract<Checked, { kind: 'Transform' }>,
  modules: ReadonlyMap<string, string>,
  complaints: Complaint[],
): TransformConfig {
  const codeOf = (module: string) => {
    const code = modules.get(moduleName({ file: place.file, module }));
    if (code === undefined) complaints.push({ ...place, message: `transform ${value.name}: the module ${module} is not there` });
    return code ?? '';
  };
  const { name, from, to, key } = value;
  return {
    name,
    from,
    steps: value.steps.map((step) => stepOf(step, codeOf)),
    places: steps.map(({ file, line, column }) => `${file}:${line}:${column}`),
    ...(to === undefined ? {} : { to }),
    ...(key === undefined ? {} : { key }),
  };
}

type Names = readonly { readonly name: string }[];

/** What one Kpi document cannot know by itself: which sources and sinks there are. */
export function checkKpis(
  documents: readonly Checked[],
  known: Readonly<Record<'transforms' | 'sinks', Names>> &
    Readonly<Record<'hooks' | 'tokens', Names | null>> & {
      readonly sources: readonly { readonly name: string; readonly heartbeatMs?: number }[];
    },
  complaints: Complaint[],
): void {
  for (const document of documents) {
    if (document.kind !== 'Kpi') continue;
    const { engine, from = {} } = document.value;
    if (known.sinks.some((sink) => sink.name === engine))
      complaints.push({ ...document.at(['engine']), message: `"engine": a sink is called ${engine} already` });
    const tells = (['alerts', 'targets'] as const).flatMap((kind) =>
      document.value[kind].map(({ to }, i): [string[], readonly string[]] => [[kind, String(i), 'to'], to]),
    );
    const { publish, freshness } = document.value;
    for (const [path, to] of [
      ...tells,
      [['publish', 'to'], publish?.to ?? []] as const,
      [['freshness', 'to'], freshness.to] as const,
    ]) {
      for (const name of to) {
        // A definition that is sent alone names hooks that only the cluster's own config knows.
        if (known.hooks?.some((hook) => hook.name === name) ?? true) continue;
        complaints.push({ ...document.at(path), message: `"${path.join('.')}": there is no Hook ${name}` });
      }
    }
    const readers = known.tokens && [...ROLES, ...known.tokens.map((token) => token.name)];
    for (const name of document.value.access?.read ?? []) {
      if (readers?.includes(name) ?? true) continue;
      complaints.push({
        ...document.at(['access', 'read']),
        message: `"access.read": there is no token ${name}, and no such role: ${ROLES.join(', ')}`,
      });
    }
    for (const [alias, one] of Object.entries(from)) {
      const { source } = 'on' in one ? one.table : one;
      const beatMs = known.sources.find(({ name }) => name === source)?.heartbeatMs ?? 0;
      if (freshness.target !== undefined && freshness.target <= beatMs)
        complaints.push({
          ...document.at(['freshness', 'target']),
          message: `"freshness.target": while ${source} is idle it tells how far it is every ${beatMs} ms (heartbeat): expected more than that`,
        });
      if ([...known.sources, ...known.transforms].some(({ name }) => name === source)) continue;
      complaints.push({ ...document.at(['from', alias]), message: `"from.${alias}": there is no source ${source}` });
    }
  }
}

/** What one Process document cannot know by itself. Its projections are called as it is, as those of sinks and engines are. */
export function checkProcesses(
  documents: readonly Checked[],
  known: Readonly<Record<'sources' | 'transforms' | 'sinks', Names>> & { readonly hooks: Names | null } & Pick<Config, 'kpis'>,
  complaints: Complaint[],
): void {
  for (const document of documents) {
    if (document.kind !== 'Process') continue;
    const { name, objects, alerts } = document.value;
    alerts.forEach(({ to }, i) => {
      for (const hook of to) {
        if (known.hooks?.some((one) => one.name === hook) ?? true) continue;
        complaints.push({ ...document.at(['alerts', String(i), 'to']), message: `"alerts.${i}.to": there is no Hook ${hook}` });
      }
    });
    const owner = known.sinks.some((sink) => sink.name === name) ? 'sink' : 'engine of KPIs';
    if (owner === 'sink' || known.kpis.some(({ engine }) => engine === name))
      complaints.push({ ...document.at(['name']), message: `"name": a ${owner} is called ${name} already` });
    for (const [type, { table }] of Object.entries(objects)) {
      if ([...known.sources, ...known.transforms].some((one) => one.name === table.source)) continue;
      const message = `"objects.${type}.table": there is no source ${table.source}`;
      complaints.push({ ...document.at(['objects', type, 'table']), message });
    }
  }
}

function clusterOf({ nats, changelog, lake, kpi: engines, http }: kinds.ClusterDocument): Config['cluster'] {
  return {
    nats: {
      replicas: nats.replicas,
      ...(nats.url ? { url: [nats.url].flat().join(',') } : {}),
      ...(nats.creds ? { creds: nats.creds } : {}),
    },
    changelog: {
      maxAgeMs: changelog.maxAge,
      maxBytes: changelog.maxBytes,
      lingerMs: changelog.linger,
      confirmAfterMs:
        changelog.confirmAfter ?? (nats.replicas > 1 ? kinds.CONFIRM_AFTER_MS.replicated : kinds.CONFIRM_AFTER_MS.alone),
    },
    lake: lake.url ? { url: lake.url } : {},
    kpi: { memoryBytes: engines.memory, threads: engines.threads },
    http,
  };
}

function sourceOf({ kind: _kind, heartbeat, contract, ...rest }: kinds.SourceDocument): SourceConfig {
  return { ...rest, heartbeatMs: heartbeat, ...(contract ? { contract } : {}) };
}

function sinkOf(document: Extract<Checked, { kind: 'Ods' | 'Lake' | 'Events' }>): SinkConfig {
  if (document.kind === 'Ods') {
    const { name, from, postgres, schema, merge, partitions, onError, existing, foreignKeys, history, softDelete } =
      document.value;
    return {
      type: 'ods',
      name,
      from,
      postgres,
      partitions,
      onError,
      existing,
      foreignKeys,
      history,
      softDelete,
      ...(schema === undefined ? {} : { schema }),
      ...(merge ? { merge } : {}),
    };
  }
  if (document.kind === 'Events') return eventsSinkOf(document.value);
  const { name, from, flush, compact } = document.value;
  return { type: 'lake', name, from, flush: { everyMs: flush.every, bytes: flush.bytes }, compact: { everyMs: compact.every } };
}
