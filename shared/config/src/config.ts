import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ConnectionConfig } from './connection.ts';
import type { ContractConfig } from './contract.ts';
import type { EventsSinkConfig } from './events.ts';
import type { HookConfig } from './hooks.ts';
import type { KpiConfig } from './kpi.ts';
import type { KpiAccess, KpiReader } from './kpi-access.ts';
import type { ProcessConfig } from './process.ts';
import type { TransformConfig } from './transforms.ts';

/** The whole desired state, checked and with every default filled in. */
export interface Config {
  readonly cluster: ClusterConfig;
  readonly sources: readonly SourceConfig[];
  readonly transforms: readonly TransformConfig[];
  readonly sinks: readonly SinkConfig[];
  readonly kpis: readonly KpiConfig[];
  readonly processes: readonly ProcessConfig[];
  readonly hooks: readonly HookConfig[];
}

/** Each role may do what the ones before it may. */
export const ROLES = ['viewer', 'analyst', 'operator', 'admin'] as const;
export type Role = (typeof ROLES)[number];

export interface ClusterConfig {
  /** `url`: one address, or those of several members of one NATS cluster, separated by commas. */
  readonly nats: { readonly url?: string; readonly replicas: number; readonly creds?: string };
  readonly changelog: {
    readonly maxAgeMs: number;
    readonly maxBytes: number;
    readonly lingerMs: number;
    readonly confirmAfterMs: number;
  };
  /** `file:FOLDER`; absent: `lake` in the data folder. */
  readonly lake: { readonly url?: string };
  /** What DuckDB may use in each engine of a KPI worker; beyond it spills to disk. */
  readonly kpi: { readonly memoryBytes: number; readonly threads: number };
  readonly http: {
    readonly port: number;
    readonly tokens: readonly {
      readonly name: string;
      readonly token: string;
      readonly role: Role;
      /** `SCHEMA.TABLE` or `SCHEMA.*`, as queries name them: what an analyst may query. Absent: every table. */
      readonly tables?: readonly string[] | undefined;
      /** What row filters of KPIs compare dimensions with: values by the name of a claim. */
      readonly claims: Readonly<Record<string, readonly string[]>>;
    }[];
  };
}

export interface SourceConfig {
  readonly name: string;
  readonly postgres: ConnectionConfig;
  readonly tables: readonly string[];
  readonly snapshot: 'initial' | 'none';
  readonly labels: Readonly<Record<string, string>>;
  /** When a table breaks the contract: consumers follow it, keep the promised columns, or the source stands still. */
  readonly schemaChanges: 'apply' | 'keep' | 'halt';
  readonly contract?: ContractConfig;
  readonly heartbeatMs: number;
}

export interface OdsSinkConfig {
  readonly type: 'ods';
  readonly name: string;
  readonly from: readonly string[];
  readonly postgres: ConnectionConfig;
  /** Template with `{source}` and `{schema}`; absent: see {@link targetSchema}. */
  readonly schema?: string;
  readonly onError: 'halt' | 'quarantine';
  /** What becomes of tables that Tributary did not make: an error, or they are filled as their owner made them. */
  readonly existing: 'refuse' | 'adopt';
  /** Are foreign keys of the target's owner checked? `replica`: no, and the owner's triggers rest too. */
  readonly foreignKeys: 'check' | 'replica';
  /** A row that is deleted stays, and is marked. */
  readonly softDelete: boolean;
  /** Every version of every row is kept in a table of its own, beside the current rows. */
  readonly history: boolean;
  /** Actors that share the tables of one source; 1 = it is not split. */
  readonly partitions: number;
  /** Tables of the same name stand together in schema `into` (a template with `{schema}`), told apart by the column `shard`. */
  readonly merge?: { readonly into: string; readonly shard: string };
}

export interface LakeSinkConfig {
  readonly type: 'lake';
  readonly name: string;
  readonly from: readonly string[];
  readonly flush: { readonly everyMs: number; readonly bytes: number };
  readonly compact: { readonly everyMs: number };
}

export type SinkConfig = OdsSinkConfig | LakeSinkConfig | EventsSinkConfig;

/** Where lakes and published files are: the same for all workers where the config names it, else this worker's own. */
export function lakeFolder({ cluster }: Pick<Config, 'cluster'>, dataDir: string): string {
  const { url } = cluster.lake;
  if (!url) return join(dataDir, 'lake');
  return url.startsWith('file:///') ? fileURLToPath(url) : url.slice('file:'.length);
}

/** The schema where a source's table lands: source, or source_schema where the schema is not public. */
export function targetSchema(source: string, schema: string, template?: string): string {
  if (template !== undefined) return template.replaceAll('{source}', source).replaceAll('{schema}', schema);
  return schema === 'public' ? source : `${source}_${schema}`;
}

/** The schema where the versions of the rows of a target schema's tables stand. */
export function historySchema(target: string): string {
  return `${target}_history`;
}

/** Is `schema.table` chosen by patterns such as `public.*`, `!public.secret`? The last pattern that matches decides. */
export function matchesTable(patterns: readonly string[], table: string): boolean {
  let chosen = false;
  for (const pattern of patterns) {
    const negative = pattern.startsWith('!');
    if (matches(negative ? pattern.slice(1) : pattern, table)) chosen = !negative;
  }
  return chosen;
}

/**
 * Names of the changelogs that a sink reads something of: sources, and transforms. A bare `*` means every source: what a
 * transform makes of their rows would come twice.
 */
export function sourcesOf(sink: Pick<SinkConfig, 'from'>, config: Pick<Config, 'sources' | 'transforms'>): string[] {
  const heads = sink.from.map((pattern) => pattern.split('.')[0] as string);
  const named = (name: string, head: string) => matches(head, name);
  return [
    ...config.sources.map(({ name }) => name).filter((name) => heads.some((head) => named(name, head))),
    ...config.transforms.map(({ name }) => name).filter((name) => heads.some((head) => head !== '*' && named(name, head))),
  ];
}

/** Names of the changelogs that a transform reads: those of its rows, and those it looks up in. */
export function inputsOf(transform: TransformConfig, config: Pick<Config, 'sources' | 'transforms'>): string[] {
  const others = { ...config, transforms: config.transforms.filter(({ name }) => name !== transform.name) };
  return sourcesOf({ from: [...transform.from, ...lookupsOf(transform)] }, others);
}

/** Tables (`SOURCE.SCHEMA.TABLE`) that the steps of a transform look up in. */
export function lookupsOf({ steps }: Pick<TransformConfig, 'steps'>): string[] {
  return [...new Set(steps.flatMap((step) => (step.kind === 'lookup' ? [step.lookup.table] : [])))];
}

/** Does a transform read `schema.table` of a changelog, for its rows or to look up in it? */
export function readsTable(transform: Pick<TransformConfig, 'from' | 'steps'>, source: string, table: string): boolean {
  return wantsTable(transform, source, table) || lookupsOf(transform).includes(`${source}.${table}`);
}

/** Does a sink want `schema.table` of a source? */
export function wantsTable(sink: Pick<SinkConfig, 'from'>, source: string, table: string): boolean {
  return sink.from.some((pattern) => {
    const [wanted = '', ...rest] = pattern.split('.');
    if (!matches(wanted, source)) return false;
    return rest.length === 0 || (rest.length === 1 && rest[0] === '*') || matches(rest.join('.'), table);
  });
}

function matches(pattern: string, text: string): boolean {
  const escaped = pattern.replaceAll(/[\\^$.|?+()[\]{}]/g, '\\$&').replaceAll('*', '.*');
  return new RegExp(`^${escaped}$`).test(text);
}

/** Names of what has a changelog. */
interface Changelogs {
  readonly sources: readonly { readonly name: string }[];
  readonly transforms: readonly { readonly name: string }[];
}

/** Changelogs that the KPIs of an engine read: those whose tables they name; for a query, those whose names it holds. */
export function sourcesOfKpis(kpis: readonly KpiConfig[], { sources, transforms }: Changelogs): string[] {
  const named = new Set(
    kpis.flatMap(({ definition }) => (definition.kind === 'measures' ? definition.from.map(({ source }) => source) : [])),
  );
  const queries = kpis.flatMap(({ definition }) => (definition.kind === 'query' ? [definition.sql] : []));
  const inQuery = (name: string) => queries.some((text) => new RegExp(`\\b${name}"?\\s*\\.`, 'i').test(text));
  return [...sources, ...transforms].map(({ name }) => name).filter((name) => named.has(name) || inQuery(name));
}

/** Could two definitions read one table? Of a query it is known only which sources its text names. */
export function mayShareTables(one: KpiConfig | ProcessConfig, other: KpiConfig | ProcessConfig, config: Changelogs): boolean {
  const [a, b] = [tablesOf(one), tablesOf(other)];
  if (a && b) return a.some(({ source, table }) => b.some((its) => its.source === source && its.table === table));
  const named = new Set(sourcesRead(other, config));
  return sourcesRead(one, config).some((source) => named.has(source));
}

/** Null: a query names no tables that are known here. */
function tablesOf(one: KpiConfig | ProcessConfig): readonly { readonly source: string; readonly table: string }[] | null {
  if (!('objects' in one)) return one.definition.kind === 'measures' ? one.definition.from : null;
  const { objects, activities } = one;
  const beside = activities.flatMap(({ when, with: others }) => {
    const source = objects.find(({ name }) => name === when.object)?.source ?? '';
    return others.flatMap(({ object, table }) => (table ? [{ source, table: object }] : []));
  });
  return [...objects, ...beside];
}

function sourcesRead(one: KpiConfig | ProcessConfig, config: Changelogs): string[] {
  return 'objects' in one ? sourcesOfProcess(one) : sourcesOfKpis([one], config);
}

/** Is a reader among those that `access.read` names? A word that is a role is never the name of a token. */
export function admits({ read }: Pick<KpiAccess, 'read'>, { name, role }: Exclude<KpiReader, 'local'>): boolean {
  return (
    read === null ||
    read.some((word) => {
      const rank = ROLES.findIndex((one) => one === word);
      return rank === -1 ? word === name : ROLES.indexOf(role) >= rank;
    })
  );
}

/** May a reader see every row of a KPI? One whose question does not say who asks may not, where the KPI is not for everyone. */
export function readsAll({ access }: { readonly access: KpiAccess | null }, reader: KpiReader | undefined): boolean {
  if (!access || reader === 'local') return true;
  return reader !== undefined && access.rowFilter === null && admits(access, reader);
}

/** Changelogs that a process reads. */
export function sourcesOfProcess({ objects }: Pick<ProcessConfig, 'objects'>): string[] {
  return [...new Set(objects.map(({ source }) => source))].toSorted();
}
