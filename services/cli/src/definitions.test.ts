import { memoryBroker } from '@tributary/changelog';
import type { ConfigFile, KpiReader } from '@tributary/config';
import { Fault, type Kv, systemClock } from '@tributary/core';
import type { OpsLog } from '@tributary/ops';
import { describe, expect, it } from 'vitest';
import { DesiredState } from './desired.ts';
import { StoredDefinitions } from './definitions.ts';

const SOURCE = 'kind: Source\nname: shop\npostgres: "postgres://me@db/shop"\n';
const kpi = (name: string, more = '') =>
  `kind: Kpi\nname: ${name}\nfrom: { o: shop.public.orders }\nmeasures: { n: { sql: "count(*)" } }\n${more}`;
const process = (name: string, more = '') =>
  `kind: Process\nname: ${name}\nobjects: { order: { table: shop.orders, state: status } }\nroot: order\n${more}`;
const files = (...texts: string[]): ConfigFile[] => [{ name: 'tributary.yaml', text: [SOURCE, ...texts].join('---\n') }];
const token = (role: 'operator' | 'admin'): KpiReader => ({ name: 'somebody', role, claims: {} });
const CREATED = { over: null, reader: 'local' } as const;

const of = (name: string) => ({ kind: 'Kpi', name }) as const;
const ofProcess = (name: string) => ({ kind: 'Process', name }) as const;

describe('definitions that came over HTTP', () => {
  const warned: unknown[] = [];
  const log = { warn: (facts: object) => void warned.push(facts) } as unknown as OpsLog;
  const begun = async (...texts: string[]) => {
    const { kv } = memoryBroker();
    const state = new DesiredState(kv, '');
    await state.replace(files(...texts), 1_000, log);
    return { kv, state, documents: new StoredDefinitions(state, systemClock) };
  };
  const tagOf = async (documents: StoredDefinitions, name: string) => {
    const found = await documents.find(of(name));
    return found?.origin === 'api' ? found.tag : null;
  };

  it('run beside the files, version by version, and are kept when other files are applied or it is started again', async () => {
    const { state, documents } = await begun();
    expect(await documents.find(of('gmv'))).toBeNull();
    const first = await documents.put(of('gmv'), kpi('gmv'), CREATED);
    expect(first).toMatchObject({ changed: true, document: { origin: 'api', version: 1, text: kpi('gmv') } });
    const same = await documents.put(of('gmv'), kpi('gmv'), { over: await tagOf(documents, 'gmv'), reader: 'local' });
    expect(same).toEqual(first);
    const second = kpi('gmv', 'where: "o.id > 1"\n');
    expect(await documents.put(of('gmv'), second, { over: await tagOf(documents, 'gmv'), reader: 'local' })).toMatchObject({
      changed: true,
      document: { version: 2 },
    });
    const again = await state.replace(files(kpi('other')), 2_000, log);
    expect(again.config.kpis.map(({ name }) => name)).toEqual(['other', 'gmv']);
    expect(await documents.find(of('other'))).toEqual({ origin: 'file', file: 'tributary.yaml', text: kpi('other') });
    expect(await documents.remove(of('gmv'), { over: await tagOf(documents, 'gmv'), reader: 'local' })).toEqual({
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
    const documents = new StoredDefinitions(new DesiredState(slow, ''), systemClock);
    expect(await documents.find(of('gmv'))).toBeNull();
    expect(await documents.put(of('gmv'), kpi('gmv'), CREATED)).toMatchObject({ changed: true, document: { version: 1 } });
    expect([asked, refused]).toEqual([6, 3]);
  });

  it('are changed by nobody who knew another one, and of two at one moment one is told', async () => {
    const { documents } = await begun(kpi('infile'));
    expect(await documents.put(of('infile'), kpi('infile'), CREATED)).toEqual({
      changed: false,
      document: { origin: 'file', file: 'tributary.yaml', text: kpi('infile') },
    });
    await documents.put(of('gmv'), kpi('gmv'), CREATED);
    expect(await documents.put(of('gmv'), kpi('gmv', 'owner: me\n'), CREATED)).toMatchObject({
      changed: false,
      document: { version: 1 },
    });
    const over = await tagOf(documents, 'gmv');
    const put = (owner: string) => documents.put(of('gmv'), kpi('gmv', `owner: ${owner}\n`), { over, reader: 'local' });
    const both = await Promise.all([put('a'), put('b')]);
    expect(both.map(({ changed }) => changed).toSorted()).toEqual([false, true]);
    expect(await documents.find(of('gmv'))).toEqual(both.find(({ changed }) => changed)?.document);
    // Others may come at the same moment.
    const others = await Promise.all(['x', 'y'].map((name) => documents.put(of(name), kpi(name), CREATED)));
    expect(others.map(({ changed }) => changed)).toEqual([true, true]);
    expect(await documents.remove(of('gmv'), { over, reader: 'local' })).toMatchObject({ changed: false });
  });

  it('leave a name to whoever had it first, and say how to mend it', async () => {
    const { state, documents } = await begun();
    await documents.put(of('gmv'), kpi('gmv'), CREATED);
    const taken = 'tributary.yaml: Kpi gmv was defined over HTTP and is kept there: take it out of this file, or DELETE';
    await expect(state.replace(files(kpi('gmv')), 2_000, log)).rejects.toThrow(taken);
    const desired = { files: files(kpi('gmv')), documents: (await state.read())?.documents ?? [] };
    await expect(state.write(desired, 1, 2_000)).rejects.toThrow(taken);
  });

  it('that no longer fit the files are kept, told, and keep nothing else from running', async () => {
    const { state, documents } = await begun();
    await documents.put(of('gmv'), kpi('gmv'), CREATED);
    const other = [{ name: 'other.yaml', text: SOURCE.replaceAll('shop', 'stock') }];
    const { config } = await state.replace(other, 2_000, log);
    expect([config.sources.map(({ name }) => name), config.kpis]).toEqual([['stock'], []]);
    expect(warned.splice(0)).toMatchObject([{ unfit: [{ name: 'kpis/gmv', reason: /there is no source shop/ }] }]);
    expect((await state.replace(files(), 3_000, log)).config.kpis.map(({ name }) => name)).toEqual(['gmv']);
  });

  it('are filled in with nothing, hold no secret, and must fit the rest', async () => {
    const { state, documents } = await begun();
    await documents.put(of('gmv'), kpi('gmv', `where: "o.note = '\${env:PATH}'"\n`), CREATED);
    const { config } = await state.replace(files(), 2_000, log);
    expect(config.kpis[0]?.definition).toMatchObject({ where: "o.note = '${env:PATH}'" });
    const secret = kpi('x', `owner: "https://me:secret@host"\n`);
    await expect(documents.put(of('x'), secret, CREATED)).rejects.toThrow('a secret is written out');
    const unknown = kpi('x').replace('shop.', 'nowhere.');
    await expect(documents.put(of('x'), unknown, CREATED)).rejects.toThrow('kpis/x:3:9: "from.o": there is no source nowhere');
    const none = new StoredDefinitions(new DesiredState(memoryBroker().kv, ''), systemClock);
    await expect(none.put(of('x'), kpi('x'), CREATED)).rejects.toThrow('nothing was applied to this cluster yet');
  });

  it('are of KPIs and of processes, which may share a name', async () => {
    const { kv, state, documents } = await begun();
    await documents.put(of('gmv'), kpi('gmv'), CREATED);
    expect(await documents.find(ofProcess('gmv'))).toBeNull();
    const text = process('gmv');
    expect(await documents.put(ofProcess('gmv'), text, CREATED)).toMatchObject({ changed: true, document: { text, version: 1 } });
    const { config } = await state.replace(files(kpi('other')), 2_000, log);
    expect([config.kpis, config.processes].map((all) => all.map(({ name }) => name))).toEqual([['other', 'gmv'], ['gmv']]);
    const taken =
      'tributary.yaml: Process gmv was defined over HTTP and is kept there: take it out of this file, or DELETE /v1/proc';
    await expect(state.replace(files(text), 3_000, log)).rejects.toThrow(taken);
    const hook = process('told', 'alerts: [{ on: [stuck], to: [nobody] }]\n');
    await expect(documents.put(ofProcess('told'), hook, CREATED)).rejects.toThrow(
      'processes/told:5:25: "alerts.0.to": there is no Hook',
    );
    const found = await documents.find(ofProcess('gmv'));
    const over = found?.origin === 'api' ? found.tag : null;
    expect(await documents.remove(ofProcess('gmv'), { over, reader: 'local' })).toEqual({ changed: true, document: null });
    expect((await documents.find(of('gmv')))?.origin).toBe('api');
    // Written before there were processes: no kind is said.
    const stored = (await kv.get('config')) as { value: { documents: { kind?: string }[] } };
    for (const one of stored.value.documents) delete one.kind;
    expect(await documents.find(of('gmv'))).toMatchObject({ origin: 'api', text: kpi('gmv') });
  });

  it('show nobody what another KPI hides from him', async () => {
    const guarded = kpi('sales', 'dimensions: { country: o.country }\naccess: { row_filter: "country = \'DE\'" }\n');
    const { documents } = await begun(guarded, kpi('listed', 'access: { read: [admin] }\n').replace('orders', 'refunds'));
    const put = (text: string, role: 'operator' | 'admin') =>
      documents.put(of('mine'), text, { over: null, reader: token(role) });
    await expect(put(kpi('mine'), 'admin')).rejects.toThrow('Kpi sales does not show this token all of its rows');
    await expect(put('kind: Kpi\nname: mine\nsql: FROM shop.orders\n', 'admin')).rejects.toThrow('Kpi sales does not');
    const seen = documents.put(ofProcess('mine'), process('mine'), { over: null, reader: token('admin') });
    await expect(seen).rejects.toThrow('Kpi sales does not show this token all of its rows: Process mine');
    const beside = `${process('mine').replace('orders', 'parcels')}events: [{ name: x, when: order.insert, with: [orders.insert] }]\n`;
    await expect(documents.put(ofProcess('mine'), beside, { over: null, reader: token('admin') })).rejects.toThrow('Kpi sales');
    const refunds = kpi('mine', 'access: { read: [admin] }\n').replace('orders', 'refunds');
    await expect(put(refunds, 'operator')).rejects.toThrow('Kpi listed does not show this token');
    expect(await put(refunds, 'admin')).toMatchObject({ changed: true });
    const over = await tagOf(documents, 'mine');
    await expect(documents.remove(of('mine'), { over, reader: token('operator') })).rejects.toThrow('who may read all of it');
    expect(await documents.remove(of('mine'), { over, reader: token('admin') })).toMatchObject({ changed: true });
  });
});
