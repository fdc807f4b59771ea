import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Broker, connectNats, describeBroker } from '@tributary/changelog';
import { Fault } from '@tributary/core';
import { alive } from '@tributary/embedded';
import { workerName } from '@tributary/ops';

/** What a running `up` or `demo` leaves in its data folder for other commands. */
export interface Addresses {
  readonly pid: number;
  readonly nats: string;
  readonly console: string;
}

const fileOf = (data: string) => join(data, 'addresses.json');

export async function readAddresses(data: string): Promise<Addresses | null> {
  try {
    return JSON.parse(await readFile(fileOf(data), 'utf8')) as Addresses;
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return null;
    throw new Fault('config_invalid', `${fileOf(data)} cannot be read; remove it and start again`, {}, { cause: error });
  }
}

/** @throws Fault `config_invalid` when another process already runs on this folder */
export async function claimFolder(data: string): Promise<void> {
  await mkdir(data, { recursive: true });
  const known = await readAddresses(data);
  if (known && known.pid !== process.pid && alive(known.pid) && (await isTributary(known.pid))) {
    throw new Fault(
      'config_invalid',
      `Tributary already runs on ${data} (process ${known.pid}, console ${known.console}). Stop it, or choose another --data.`,
    );
  }
}

/** A process id may have been given to somebody else since. */
async function isTributary(pid: number): Promise<boolean> {
  try {
    return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).includes('tributary');
  } catch {
    return process.platform !== 'linux';
  }
}

export async function writeAddresses(data: string, addresses: Addresses): Promise<void> {
  const scratch = `${fileOf(data)}.${process.pid}`;
  // Its owner's alone: the broker's address may hold a password.
  await writeFile(scratch, JSON.stringify(addresses, null, 2), { mode: 0o600 });
  await rename(scratch, fileOf(data));
}

export async function removeAddresses(data: string): Promise<void> {
  await rm(fileOf(data), { force: true });
}

/**
 * The name of the one worker of a folder, kept in it. Only one `up` runs on a folder ({@link claimFolder}), so whoever
 * had leases under this name before is dead, and they are taken back at once instead of after their lifetime.
 */
export async function workerOf(data: string): Promise<string> {
  const file = join(data, 'worker');
  try {
    const known = (await readFile(file, 'utf8')).trim();
    if (/^[\w-]+$/.test(known)) return known;
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOENT') throw error;
  }
  const name = workerName();
  await writeFile(file, `${name}\n`);
  return name;
}

export interface Where {
  readonly data: string;
  readonly nats?: string | undefined;
}

export interface Connected {
  readonly broker: Broker;
}

/** Connects to a running system. @throws Fault `not_found` when none is there */
export async function connect({ data, nats }: Where): Promise<Connected> {
  const addresses = nats ? null : await readAddresses(data);
  const url = nats ?? addresses?.nats;
  if (!url)
    throw new Fault(
      'not_found',
      `nothing runs on ${data}. Start it with "tributary up -f FILE" or "tributary demo", or name --data or --nats.`,
    );
  try {
    return { broker: await connectNats({ url, name: 'tributary command' }) };
  } catch (error) {
    if (!addresses) throw error;
    throw new Fault(
      'not_found',
      `Tributary on ${data} does not answer at ${describeBroker(url)}: it is not running, or is just starting.`,
      {},
      { cause: error },
    );
  }
}
