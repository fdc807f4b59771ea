import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT } from '../fixtures/system.ts';

interface File {
  readonly path: string;
  readonly text: string;
}

function files(folder: string, pattern: RegExp): File[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => !/\/(node_modules|dist)\//.test(path))
    .map((path) => ({ path: relative(ROOT, path), text: readFileSync(path, 'utf8') }));
}

const sources = [...files('shared', /\.ts$/), ...files('services', /\.ts$/)];
const tests = files('test', /\.ts$/);

/** Every module a file imports from, also for types. */
function imports({ text }: File): string[] {
  return [...text.matchAll(/^(?:import|export)\s[^'"]*?from\s+'([^']+)'|^import\s+'([^']+)'|import\('([^']+)'\)/gm)].map(
    (m) => (m[1] ?? m[2] ?? m[3]) as string,
  );
}

/** Lower layers know nothing of higher ones. */
const LAYER: Readonly<Record<string, number>> = {
  core: 0,
  config: 1,
  changelog: 2,
  cluster: 2,
  postgres: 2,
  duckdb: 2,
  ops: 2,
  embedded: 2,
  projection: 3,
  alerts: 4,
  source: 5,
  transform: 5,
  sink: 5,
  kpi: 5,
  console: 5,
  monitor: 5,
  cli: 6,
};

/** The only room for each of these. */
const ROOMS: Readonly<Record<string, readonly string[]>> = {
  nats: ['shared/changelog'],
  msgpackr: ['shared/changelog'],
  pg: ['shared/postgres', 'shared/embedded'],
  'pg-logical-replication': ['shared/postgres'],
  'pg-copy-streams': ['shared/postgres'],
  '@duckdb/node-api': ['shared/duckdb'],
  pino: ['shared/ops'],
  'prom-client': ['shared/ops'],
  '@opentelemetry/api': ['shared/ops'],
  '@opentelemetry/sdk-trace-base': ['shared/ops'],
  '@opentelemetry/exporter-trace-otlp-http': ['shared/ops'],
  '@opentelemetry/resources': ['shared/ops'],
  fastify: ['services/console'],
  'apache-arrow': ['services/console'],
  commander: ['services/cli'],
  'cli-progress': ['services/cli'],
  sax: ['services/monitor'],
  'csv-parse': ['services/monitor'],
  '@dagrejs/dagre': ['services/monitor'],
  yaml: ['shared/config'],
  zod: ['shared/config'],
};

const packageOf = (path: string) => path.split('/')[1] as string;

describe('tidy', () => {
  it('imports go one way, and no service imports another', () => {
    const wrong = sources.flatMap((file) =>
      imports(file)
        .filter((name) => name.startsWith('@tributary/'))
        .map((name) => name.slice('@tributary/'.length))
        .filter((name) => name !== packageOf(file.path) && (LAYER[name] ?? 99) >= (LAYER[packageOf(file.path)] ?? 0))
        .map((name) => `${file.path} imports ${name}`),
    );
    expect(wrong).toEqual([]);
  });

  it('a package is entered through its index, and left through its name', () => {
    const wrong = [...sources, ...tests].flatMap((file) =>
      imports(file)
        .filter(
          (name) =>
            /^@tributary\/[^/]+\//.test(name) ||
            (name.startsWith('.') &&
              file.path.split('/').slice(0, 2).join('/') !== join(dirname(file.path), name).split('/').slice(0, 2).join('/') &&
              !file.path.startsWith('test/')),
        )
        .map((name) => `${file.path} imports ${name}`),
    );
    expect(wrong).toEqual([]);
  });

  it('vendors stay in their rooms', () => {
    const wrong = sources.flatMap((file) =>
      imports(file)
        .filter((name) => ROOMS[name] && !ROOMS[name].some((room) => file.path.startsWith(room)))
        .map((name) => `${file.path} imports ${name}`),
    );
    expect(wrong).toEqual([]);
  });

  it('the environment is read in one place', () => {
    const allowed = /^(shared\/(ops|embedded)\/|services\/cli\/src\/(bench|output))/;
    expect(
      sources.filter((file) => file.text.includes('process.env') && !allowed.test(file.path)).map((file) => file.path),
    ).toEqual([]);
  });

  it('every exported name is used outside its file', () => {
    const all = [...sources, ...tests, ...files('scripts', /\.mjs$/)];
    const unused = sources
      .filter((file) => !file.path.endsWith('/index.ts') && !file.path.endsWith('.test.ts') && !file.path.includes('/web/'))
      .flatMap((file) =>
        [...file.text.matchAll(/^export (?:async )?(?:abstract )?(?:function\*?|class|const|interface|type) (\w+)/gm)]
          .map((m) => m[1] as string)
          .filter((name) => !all.some((other) => other.path !== file.path && new RegExp(`\\b${name}\\b`).test(other.text)))
          // A type that a used signature of the same file mentions must be exported for declarations.
          .filter((name) => (file.text.match(new RegExp(`\\b${name}\\b`, 'g')) ?? []).length < 2)
          .map((name) => `${file.path}: ${name}`),
      );
    expect(unused).toEqual([]);
  });

  it('files stay readable: at most 500 lines', () => {
    const long = [...sources, ...tests]
      .map((file) => ({ path: file.path, lines: file.text.split('\n').length }))
      .filter((file) => file.lines > 500);
    expect(long).toEqual([]);
  });

  it('no test is alone, and none is skipped without a reason', () => {
    const wrong = [...sources, ...tests].filter(
      (file) =>
        file.path.endsWith('.test.ts') && !file.path.includes('tidy') && /\.(only|todo)\(|\bx(it|describe)\(/.test(file.text),
    );
    expect(wrong.map((file) => file.path)).toEqual([]);
  });

  it('every dependency that is declared is used, and every one used is declared', () => {
    const wrong: string[] = [];
    for (const manifest of [...files('shared', /^package\.json$/), ...files('services', /^package\.json$/)]) {
      const folder = dirname(manifest.path);
      const { dependencies = {}, devDependencies = {} } = JSON.parse(manifest.text) as Record<string, object>;
      const declared = Object.keys(dependencies);
      const own = sources.filter((file) => file.path.startsWith(`${folder}/`));
      const used = new Set(
        own
          .flatMap(imports)
          .filter((name) => !name.startsWith('.') && !name.startsWith('node:') && !name.startsWith('/'))
          .map((name) =>
            name
              .split('/')
              .slice(0, name.startsWith('@') ? 2 : 1)
              .join('/'),
          ),
      );
      for (const name of declared)
        if (!used.has(name) && !own.some((file) => file.text.includes(`'${name}'`) || file.text.includes(`@${name}/`)))
          wrong.push(`${folder} does not use ${name}`);
      for (const name of used)
        if (!declared.includes(name) && !(name in devDependencies) && !['vitest', 'fast-check'].includes(name))
          wrong.push(`${folder} does not declare ${name}`);
    }
    expect(wrong).toEqual([]);
  });
});
