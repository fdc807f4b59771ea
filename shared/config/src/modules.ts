import { dirname, join } from 'node:path';
import { Fault } from '@tributary/core';
import { stringify } from 'yaml';
import type { ConfigFile } from './load.ts';

/** Where a step is written that names a module, and how. */
interface Named {
  /** Of the YAML file. */
  readonly file: string;
  readonly module: string;
}

/** The name that a module has in the config: its path, seen from where the files of the config are. */
export function moduleName({ file, module }: Named): string {
  return join(dirname(file), module);
}

/**
 * Modules (JavaScript or TypeScript) that steps name, each as one text with everything it imports: a config file of its own, so that it goes wherever
 * the config goes.
 * @throws Fault `config_invalid` with file, line and column of what cannot be understood
 */
export async function bundleModules(named: readonly Named[]): Promise<ConfigFile[]> {
  const names = [...new Set(named.map(moduleName))];
  return Promise.all(
    names.map(async (name) => ({
      name,
      text: stringify({ kind: 'Module', name, code: await bundleModule(name) }, { lineWidth: 0 }),
    })),
  );
}

/** One module with everything it imports as one ES module. @throws Fault `config_invalid` with file, line and column */
export async function bundleModule(path: string): Promise<string> {
  const { build } = await import('esbuild');
  try {
    const { outputFiles } = await build({
      entryPoints: [path],
      bundle: true,
      write: false,
      format: 'esm',
      platform: 'node',
      target: 'node20',
      logLevel: 'silent',
    });
    return outputFiles[0]?.text ?? '';
  } catch (error) {
    throw new Fault('config_invalid', complaintOf(path, error), { module: path }, { cause: error });
  }
}

function complaintOf(name: string, error: unknown): string {
  const { errors = [] } = error as {
    errors?: { text: string; location: { file: string; line: number; column: number } | null }[];
  };
  if (errors.length === 0) return `${name}: ${(error as Error).message}`;
  return errors
    .map(({ text, location }) =>
      location
        ? `${location.file}:${location.line}:${location.column + 1}: ${text}`
        : `${name}: ${text.replace(/^Could not resolve.*/, 'there is no such file')}`,
    )
    .join('\n');
}
