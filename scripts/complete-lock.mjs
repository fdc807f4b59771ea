// Run after "npm install" changed package-lock.json: some registries carry a package's binaries for a few platforms only, and npm
// then leaves the others out of the lock file, which "npm ci" refuses. This adds them by name and version, as optional.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './prepare.mjs';

const file = join(ROOT, 'package-lock.json');
const lock = JSON.parse(readFileSync(file, 'utf8'));
const SYSTEMS = ['aix', 'android', 'darwin', 'freebsd', 'linux', 'netbsd', 'openbsd', 'openharmony', 'sunos', 'win32'];
const PROCESSORS = ['arm64', 'arm', 'ia32', 'loong64', 'mips64el', 'ppc64', 'riscv64', 's390x', 'wasm32', 'x64'];

/** What a platform package is for, from its name. */
function platform(name) {
  const words = name.split(/[/-]/);
  const os = words.map((word) => (word === 'windows' ? 'win32' : word)).find((word) => SYSTEMS.includes(word));
  const cpu =
    words.find((word) => PROCESSORS.includes(word)) ??
    (words.includes('wasm32') ? 'wasm32' : words.includes('64') ? 'x64' : undefined);
  const libc =
    words.includes('musl') || words.includes('musleabihf')
      ? 'musl'
      : words.some((word) => word.startsWith('gnu'))
        ? 'glibc'
        : undefined;
  return { ...(os ? { os: [os] } : {}), ...(cpu ? { cpu: [cpu] } : {}), ...(libc ? { libc: [libc] } : {}) };
}

let added = 0;
for (const [path, entry] of Object.entries(lock.packages)) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    const nested = `${path}/node_modules/${name}`;
    const top = `node_modules/${name}`;
    if (!/^\d/.test(version) || lock.packages[top] || lock.packages[nested]) continue;
    lock.packages[top] = { version, ...platform(name), ...(entry.dev ? { dev: true } : {}), optional: true };
    added++;
  }
}
lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
console.log(`${added} platform packages added to package-lock.json`);
