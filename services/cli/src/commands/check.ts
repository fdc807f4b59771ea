import { configReading } from '@tributary/config';
import { environment } from '@tributary/ops';
import { checkOds } from '@tributary/sink';
import { checkSource } from '@tributary/source';
import type { Output } from '../output.ts';

/** Validates config, then looks at every database it names. @returns true when nothing is in the way */
export async function check(files: readonly string[], output: Output): Promise<boolean> {
  const { loadConfig } = await configReading();
  const config = await loadConfig(files, { env: environment() });
  const found = await Promise.all([
    ...config.sources.map((source) => checkSource(source)),
    ...config.sinks.map((sink) => (sink.type === 'ods' ? checkOds(sink, config) : Promise.resolve([]))),
  ]);
  const findings = found.flat();
  const ok = findings.every((finding) => finding.level !== 'error');
  if (output.json) output.value({ ok, sources: config.sources.map((source) => source.name), findings });
  else {
    for (const { level, about, problem, mend } of findings)
      output.line(`${level === 'error' ? 'ERROR  ' : 'WARNING'} ${about}: ${problem}\n        ${mend}`);
    output.line(ok ? `Ready: ${config.sources.length} source(s), ${config.sinks.length} sink(s).` : 'Not ready.');
  }
  return ok;
}

export async function schema(output: Output): Promise<void> {
  const { configJsonSchema } = await configReading();
  output.line(JSON.stringify(configJsonSchema(), null, 2));
}
