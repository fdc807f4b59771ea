import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { configReading } from '@tributary/config';
import { describeError, Fault } from '@tributary/core';
import type { Output } from '../output.ts';

/**
 * `kpi test`: runs the tests of definitions; nothing has to run for it. Tells one object a test, or what differs.
 * @returns did all of them pass?
 */
export async function testKpis(name: string | undefined, files: readonly string[], output: Output): Promise<boolean> {
  if (files.length === 0) throw new Fault('config_invalid', 'kpi test needs -f FILE');
  const { testedKpis } = await configReading();
  const chosen = (await testedKpis(files)).filter(({ config }) => name === undefined || config.name === name);
  const count = chosen.reduce((sum, { tests }) => sum + tests.length, 0);
  if (count === 0) throw new Fault('config_invalid', `the files hold no tests of ${name ?? 'any Kpi'}: see "tests" of kind: Kpi`);
  const { testKpi } = await import('@tributary/kpi');
  let failed = 0;
  for (const { config, file, tests } of chosen) {
    for (const test of tests) {
      const told = { kpi: config.name, fixture: test.fixture };
      try {
        const path = resolve(dirname(file), test.fixture);
        const differences = await testKpi(config, test, await fixtureText(path));
        if (differences.length > 0) failed++;
        if (output.json) output.value({ ...told, passed: differences.length === 0, differences });
        else {
          output.line(`${differences.length === 0 ? 'passed' : 'FAILED'}  ${config.name}  ${test.fixture}`);
          for (const { row, expected, actual } of differences)
            output.line(`  ${JSON.stringify(row)}: expected ${shownRow(expected)}, is ${shownRow(actual)}`);
        }
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        failed++;
        if (output.json) output.value({ ...told, passed: false, differences: [], reason: describeError(error) });
        else output.line(`FAILED  ${config.name}  ${test.fixture}\n  ${describeError(error)}`);
      }
    }
  }
  if (!output.json) output.line(`${count - failed} of ${count} test(s) passed`);
  return failed === 0;
}

function shownRow(row: object | null): string {
  return row === null ? 'no such row' : JSON.stringify(row);
}

async function fixtureText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new Fault('config_invalid', `the fixture ${path} cannot be read`, {}, { cause: error });
  }
}
