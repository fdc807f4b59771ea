import { memoryBroker } from '@tributary/changelog';
import type { ConfigFile, KpiReader } from '@tributary/config';
import { Fault, type Kv, systemClock } from '@tributary/core';
import type { OpsLog } from '@tributary/ops';
import { describe, expect, it } from 'vitest';
import { DesiredState } from './desired.ts';
import { KpiDocuments } from './kpi-documents.ts';

const SOURCE = 'kind: Source\nname: shop\npostgres: "postgres://me@db/shop"\n';
const kpi = (name: string, more = '') =>
  `kind: Kpi\nname: ${name}\nfrom: { o: shop.public.orders }\nmeasures: { n: { sql: "count(*)" } }\n${more}`;
const files = (...texts: string[]): ConfigFile[] => [{ name: 'tributary.yaml', text: [SOURCE, ...texts].join('---\n') }];
const token = (role: 'operator' | 'admin'): KpiReader => ({ name: 'somebody', role, claims: {} });
const CREATED = { over: null, reader: 'local' } as const;

describe('definitions that came over HTTP', () => {
  const warned: unknown[] = [];
  const log = { warn: (facts: object) => void warned.push(facts) } as unknown as OpsLog;
  const begun = async (...texts: string[]) => {
    const { kv } = memoryBroker();
    const state = new DesiredState(kv, '');
    await state.replace(files(...texts), 1_000, log);
    return { kv, state, documents: new KpiDocuments(state, systemClock) };
  };
  const tagOf = async (documents: KpiDocuments, name: string) => {
    const found = await documents.find(name);
    return found?.origin === 'api' ? found.tag : null;
  };

  it('run beside the files, version by version, and are kept when other files are applied or it is started again', async () => {
    const { state, documents } = await begun();
    expect(await documents.find('gmv')).toBeNull();
    const first = await documents.put('gmv', kpi('gmv'), CREATED);
    expect(first).toMatchObject({ changed: true, document: { origin: 'api', version: 1, text: kpi('gmv') } });
    const same = await documents.put('gmv', kpi('gmv'), { over: await tagOf(documents, 'gmv'), reader: 'local' });
    expect(same).toEqual(first);
    const second = kpi('gmv', 'where: "o.id > 1"\n');
    expect(await documents.put('gmv', second, { over: await tagOf(documents, 'gmv'), reader: 'local' })).toMatchObject({
      changed: true,
      document: { version: 2 },
    });
    const again = await state.replace(files(kpi('other')), 2_000, log);
    expect(again.config.kpis.map(({ name }) => name)).toEqual(['other', 'gmv']);
    expect(await documents.find('other')).toEqual({ origin: 'file', file: 'tributary.yaml' });
    expect(await documents.remove('gmv', { over: await tagOf(documents, 'gmv'), reader: 'local' })).toEqual({
      changed: true,
      document: null,
    });
    expect((await state.replace(files(), 3_000, log)).config.kpis).toEqual([]);
    expect(warned).toEqual([]);
  });

  it('outlast a broker that does not answer for a moment, whatever it is asked', async () => {
    const { kv } = await begun();
    let [asked, refused] = [0, 0];
    const once = async <T>(question: () => Promise<T>): Promise<T> => {
      if (asked++ % 2 === 1) return question();
      refused++;
      throw new Fault('broker_unreachable', 'NATS: bucket tributary: TIMEOUT');
    };
    const slow = {
      get: (key: string) => once(() => kv.get(key)),
      update: (key: string, value: unknown, revision: number) => once(() => kv.update(key, value, revision)),
    } as Kv;
    const documents = new KpiDocuments(new DesiredState(slow, ''), systemClock);
    expect(await documents.find('gmv')).toBeNull();
    expect(await documents.put('gmv', kpi('gmv'), CREATED)).toMatchObject({ changed: true, document: { version: 1 } });
    expect([asked, refused]).toEqual([6, 3]);
  });

  it('are changed by nobody who knew another one, and of two at one moment one is told', async () => {
    const { documents } = await begun(kpi('infile'));
    expect(await documents.put('infile', kpi('infile'), CREATED)).toEqual({
      changed: false,
      document: { origin: 'file', file: 'tributary.yaml' },
    });
    await documents.put('gmv', kpi('gmv'), CREATED);
    expect(await documents.put('gmv', kpi('gmv', 'owner: me\n'), CREATED)).toMatchObject({
      changed: false,
      document: { version: 1 },
    });
    const over = await tagOf(documents, 'gmv');
    const put = (owner: string) => documents.put('gmv', kpi('gmv', `owner: ${owner}\n`), { over, reader: 'local' });
    const both = await Promise.all([put('a'), put('b')]);
    expect(both.map(({ changed }) => changed).toSorted()).toEqual([false, true]);
    expect(await documents.find('gmv')).toEqual(both.find(({ changed }) => changed)?.document);
    // Others may come at the same moment.
    const others = await Promise.all(['x', 'y'].map((name) => documents.put(name, kpi(name), CREATED)));
    expect(others.map(({ changed }) => changed)).toEqual([true, true]);
    expect(await documents.remove('gmv', { over, reader: 'local' })).toMatchObject({ changed: false });
  });

  it('leave a name to whoever had it first, and say how to mend it', async () => {
    const { state, documents } = await begun();
    await documents.put('gmv', kpi('gmv'), CREATED);
    const taken = 'tributary.yaml: Kpi gmv was defined over HTTP and is kept there: take it out of this file, or DELETE';
    await expect(state.replace(files(kpi('gmv')), 2_000, log)).rejects.toThrow(taken);
    const desired = { files: files(kpi('gmv')), documents: (await state.read())?.documents ?? [] };
    await expect(state.write(desired, 1, 2_000)).rejects.toThrow(taken);
  });

  it('that no longer fit the files are kept, told, and keep nothing else from running', async () => {
    const { state, documents } = await begun();
    await documents.put('gmv', kpi('gmv'), CREATED);
    const other = [{ name: 'other.yaml', text: SOURCE.replaceAll('shop', 'stock') }];
    const { config } = await state.replace(other, 2_000, log);
    expect([config.sources.map(({ name }) => name), config.kpis]).toEqual([['stock'], []]);
    expect(warned.splice(0)).toMatchObject([{ unfit: [{ name: 'kpis/gmv', reason: /there is no source shop/ }] }]);
    expect((await state.replace(files(), 3_000, log)).config.kpis.map(({ name }) => name)).toEqual(['gmv']);
  });

  it('are filled in with nothing, hold no secret, and must fit the rest', async () => {
    const { state, documents } = await begun();
    await documents.put('gmv', kpi('gmv', `where: "o.note = '\${env:PATH}'"\n`), CREATED);
    const { config } = await state.replace(files(), 2_000, log);
    expect(config.kpis[0]?.definition).toMatchObject({ where: "o.note = '${env:PATH}'" });
    const secret = kpi('x', `owner: "https://me:secret@host"\n`);
    await expect(documents.put('x', secret, CREATED)).rejects.toThrow('a secret is written out');
    const unknown = kpi('x').replace('shop.', 'nowhere.');
    await expect(documents.put('x', unknown, CREATED)).rejects.toThrow('kpis/x:3:9: "from.o": there is no source nowhere');
    const none = new KpiDocuments(new DesiredState(memoryBroker().kv, ''), systemClock);
    await expect(none.put('x', kpi('x'), CREATED)).rejects.toThrow('nothing was applied to this cluster yet');
  });

  it('show nobody what another KPI hides from him', async () => {
    const guarded = kpi('sales', 'dimensions: { country: o.country }\naccess: { row_filter: "country = \'DE\'" }\n');
    const { documents } = await begun(guarded, kpi('listed', 'access: { read: [admin] }\n').replace('orders', 'refunds'));
    const put = (text: string, role: 'operator' | 'admin') => documents.put('mine', text, { over: null, reader: token(role) });
    await expect(put(kpi('mine'), 'admin')).rejects.toThrow('Kpi sales does not show this token all of its rows');
    await expect(put('kind: Kpi\nname: mine\nsql: FROM shop.orders\n', 'admin')).rejects.toThrow('Kpi sales does not');
    const refunds = kpi('mine', 'access: { read: [admin] }\n').replace('orders', 'refunds');
    await expect(put(refunds, 'operator')).rejects.toThrow('Kpi listed does not show this token');
    expect(await put(refunds, 'admin')).toMatchObject({ changed: true });
    const over = await tagOf(documents, 'mine');
    await expect(documents.remove('mine', { over, reader: token('operator') })).rejects.toThrow('who may read all of it');
    expect(await documents.remove('mine', { over, reader: token('admin') })).toMatchObject({ changed: true });
  });
});
