import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Changelogs } from '@tributary/changelog';
import { type ConfiguredService, registeredActors, type Runtime } from '@tributary/cluster';
import type { Config } from '@tributary/config';
import { watchProcess } from '@tributary/ops';
import type { FastifyInstance } from 'fastify';
import { alertRoutes } from './api/alerts.ts';
import { assertHostAllowed } from './api/access.ts';
import { changesRoute } from './api/changes.ts';
import { commandRoutes } from './api/commands.ts';
import { healthRoutes } from './api/health.ts';
import type { Definitions } from './api/definitions.ts';
import { kpiSamples } from './api/kpi-metrics.ts';
import { kpiRoutes } from './api/kpis.ts';
import type { ImportedLogs } from './api/imported-logs.ts';
import { discoveryRoute, type ProcessDiscovery } from './api/process-discovery.ts';
import { processRoutes } from './api/processes.ts';
import { Observer } from './api/observer.ts';
import { describeRoutes } from './api/openapi.ts';
import { refusal, sendProblem } from './api/problem.ts';
import { statusRoutes } from './api/routes.ts';
import { openServer } from './api/server.ts';

export interface ConsoleOptions {
  /** 0 = any free port. Default: `http.port` of the config. */
  readonly port?: number;
  /** Default: 127.0.0.1, or every address when tokens are configured. */
  readonly host?: string;
  /** Is the connection to the broker whole? */
  readonly connected: () => boolean;
  /** Where definitions that come over HTTP are kept; absent: none may come. */
  readonly documents?: Definitions;
  /** What looks for processes; absent: nobody may ask for it. */
  readonly discovery?: ProcessDiscovery;
  /** Imported logs in the data folder; absent: there is none. */
  readonly logs?: ImportedLogs;
}

export interface RunningConsole extends ConfiguredService<ConsoleConfig> {
  readonly url: string;
}

/** What the console reads of the config. */
export type ConsoleConfig = Pick<Config, 'sources'> & { readonly cluster: Pick<Config['cluster'], 'http'> };

/** What the console needs of its wiring: it leads nothing. */
type ConsoleRuntime = Pick<Runtime<Changelogs>, 'changelogs' | 'bus' | 'kv' | 'clock' | 'log' | 'worker'>;

const PACKAGE_ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Nothing comes from elsewhere, nothing may frame the page, and no inline script runs. */
const PAGE_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/**
 * Starts the HTTP interface and the page.
 *
 * The console is a window, not a part of the machine: it holds no state that is not heard again within a second,
 * and when it dies nothing else notices.
 * @throws Fault `config_invalid` when it would be open to other machines without tokens
 */
export async function startConsole(
  config: ConsoleConfig,
  runtime: ConsoleRuntime,
  options: ConsoleOptions,
): Promise<RunningConsole> {
  const { tokens } = config.cluster.http;
  const host = options.host ?? (tokens.length > 0 ? '0.0.0.0' : '127.0.0.1');
  assertHostAllowed(host, tokens);
  const observer = new Observer({
    ...runtime,
    sources: config.sources.map((source) => source.name),
    registered: () => registeredActors(runtime.kv),
  });
  const server = await buildServer({
    runtime,
    observer,
    tokens,
    connected: options.connected,
    documents: options.documents ?? null,
    discovery: options.discovery ?? null,
    logs: options.logs ?? null,
  });
  await observer.start();
  try {
    const url = await server.listen({ port: options.port ?? config.cluster.http.port, host });
    runtime.log.info({ url }, 'console listens');
    return {
      url,
      configure: (next) => observer.expect(next.sources.map((source) => source.name)),
      async stop() {
        await observer.close();
        await server.close();
      },
    };
  } catch (error) {
    await observer.close();
    throw error;
  }
}

interface Parts {
  readonly runtime: ConsoleRuntime;
  readonly observer: Observer;
  readonly tokens: ConsoleConfig['cluster']['http']['tokens'];
  readonly connected: () => boolean;
  readonly documents: Definitions | null;
  readonly discovery: ProcessDiscovery | null;
  readonly logs: ImportedLogs | null;
}

async function buildServer({
  runtime,
  observer,
  tokens,
  connected,
  documents,
  discovery,
  logs,
}: Parts): Promise<FastifyInstance> {
  const server = await openServer(tokens, runtime.log);
  const openapi = describeRoutes(server, version());
  healthRoutes(server, {
    observer,
    worker: runtime.worker,
    connected,
    process: watchProcess(runtime.worker),
    more: () => kpiSamples(runtime),
  });
  statusRoutes(server, observer);
  commandRoutes(server, { bus: runtime.bus, observer, log: runtime.log });
  changesRoute(server, runtime.changelogs, runtime.log);
  kpiRoutes(server, { ...runtime, documents });
  processRoutes(server, { ...runtime, documents, logs });
  if (discovery) discoveryRoute(server, discovery);
  alertRoutes(server, runtime.bus);
  server.get('/openapi.json', () => openapi());
  await servePage(server);
  return server;
}

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  js: 'text/javascript',
  css: 'text/css',
  svg: 'image/svg+xml',
  html: 'text/html; charset=utf-8',
};

const PAGE_MODULES = [
  'asking',
  'case-drawer',
  'chart',
  'console',
  'element',
  'format',
  'glance',
  'kpi-trial',
  'kpis',
  'problems',
  'process-columns',
  'processes',
  'stream',
  'table',
  'tables',
  'views',
];

/** The page, its modules and the chart library: a handful of files of this installation, read once, served under one prefix. */
async function servePage(server: FastifyInstance): Promise<void> {
  const uplot = dirname(createRequire(import.meta.url).resolve('uplot'));
  const page = join(PACKAGE_ROOT, 'web/page');
  const modules = join(PACKAGE_ROOT, 'dist/browser/web');
  const places = [
    ...['console.css', 'tributary.svg'].map((name) => join(page, name)),
    ...PAGE_MODULES.map((name) => join(modules, `${name}.js`)),
    ...['uPlot.esm.js', 'uPlot.min.css'].map((name) => join(uplot, name)),
  ];
  const files = new Map(
    await Promise.all(places.map(async (path) => [path.slice(path.lastIndexOf('/') + 1), await readFile(path)] as const)),
  );
  const index = await readFile(join(page, 'index.html'));
  server.get<{ Params: { name: string } }>('/assets/:name', (request, reply) => {
    const { name } = request.params;
    const bytes = files.get(name);
    if (!bytes) return sendProblem(request, reply, refusal(404, 'There is no such file.'));
    void reply.header('Cache-Control', 'no-cache').header('X-Content-Type-Options', 'nosniff');
    return reply.type(CONTENT_TYPES[name.slice(name.lastIndexOf('.') + 1)] as string).send(bytes);
  });
  server.get('/', (_request, reply) => {
    void reply.header('Content-Security-Policy', PAGE_POLICY).header('Referrer-Policy', 'no-referrer');
    return reply.type(CONTENT_TYPES['html'] as string).send(index);
  });
}

function version(): string {
  return (createRequire(import.meta.url)('../package.json') as { version: string }).version;
}
