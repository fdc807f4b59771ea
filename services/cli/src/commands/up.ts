import { configReading } from '@tributary/config';
import { environment, openLog, stopSignal, workerName } from '@tributary/ops';
import { aborted } from '@tributary/cluster';
import type { Output } from '../output.ts';
import { System } from '../system.ts';

export interface UpOptions {
  readonly file: readonly string[];
  readonly data: string;
  readonly nats?: string;
  readonly port?: string;
}

/** All services in one process, until SIGINT or SIGTERM. */
export async function up(options: UpOptions, output: Output): Promise<void> {
  const { configOf, readFiles } = await configReading();
  const files = await readFiles(options.file);
  const config = configOf(files, { env: environment() });
  const stop = stopSignal();
  const say = (text: string) => process.stderr.write(`${text}\n`);
  const system = await System.start({
    files,
    config,
    data: options.data,
    nats: options.nats,
    port: options.port === undefined ? undefined : Number(options.port),
    log: openLog({ worker: workerName() }),
    say,
  });
  try {
    await Promise.race([system.ready(stop), system.died()]);
    if (!stop.aborted) {
      if (output.json) output.value({ ready: true, console: system.console });
      else output.line(`Tributary runs. Console: ${system.console}`);
      await Promise.race([aborted(stop), system.died()]);
    }
  } finally {
    await system.stop();
  }
}
