import { memoryBroker } from '@tributary/changelog';
import type { ConfigFile } from '@tributary/config';
import { Fault, type Kv } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { DesiredState } from './desired.ts';

const files = (name: string): ConfigFile[] => [
  { name: 'tributary.yaml', text: `kind: Source\nname: ${name}\npostgres: "postgres://me@db/${name}"\n` },
];

/** Its first write is lost on the way there, or on the way back. */
function electing(kv: Kv, lost: 'question' | 'answer', meanwhile: () => Promise<unknown> = async () => {}): Kv {
  let asked = 0;
  const first = async (write: () => Promise<number | null>) => {
    if (asked++ > 0) return write();
    if (lost === 'answer') await write();
    await meanwhile();
    throw new Fault('broker_unreachable', 'NATS: bucket tributary: TIMEOUT');
  };
  return {
    get: (key) => kv.get(key),
    create: (key, value) => first(() => kv.create(key, value)),
    update: (key, value, revision) => first(() => kv.update(key, value, revision)),
    delete: (key, revision) => kv.delete(key, revision),
    watch: (signal, key) => kv.watch(signal, key),
  };
}

describe('a state that is applied while the bucket elects its leader', () => {
  it.each(['question', 'answer'] as const)('is applied once, when the %s of the first write was lost', async (lost) => {
    const { kv } = memoryBroker();
    await new DesiredState(electing(kv, lost), '').write({ files: files('a'), documents: [] }, 0, 1_000);
    const made = await new DesiredState(kv, '').read();
    expect(made?.files).toEqual(files('a'));
    await new DesiredState(electing(kv, lost), '').write({ files: files('b'), documents: [] }, made?.revision ?? 0, 2_000);
    expect((await new DesiredState(kv, '').read())?.files).toEqual(files('b'));
  });

  it('is refused when somebody else applied another one meanwhile', async () => {
    const { kv } = memoryBroker();
    const other = () => new DesiredState(kv, '').write({ files: files('other'), documents: [] }, 0, 1_000);
    const state = new DesiredState(electing(kv, 'question', other), '');
    await expect(state.write({ files: files('mine'), documents: [] }, 0, 1_000)).rejects.toThrow('somebody else applied');
    expect((await new DesiredState(kv, '').read())?.files).toEqual(files('other'));
  });
});
