// The dashboard in a real browser, against a real daemon. Started by test/e2e (TestNetnsDashboard), which makes traffic.
import fs from 'node:fs';
import { accessible, api, bytes, done, equal, eventually, holds, launch, open, shot, test } from './browser.mjs';

const browser = await launch();
let state; // of a browser that is signed in

const clean = (page) => equal(page.wrong, [], 'what went wrong in the page');
const hostile = '<img src=x onerror=alert(1)>"\'';

await test('a link with a code signs in, once', async () => {
  const page = await open(browser, { at: '/#code=' + process.env.CODE });
  await page.waitForSelector('h1:text("Overview")');
  holds(!page.url().includes('code='), 'the code stays in the address');
  const cookies = await page.context().cookies();
  holds(cookies.length === 1 && cookies[0].httpOnly && cookies[0].sameSite === 'Strict', 'the cookie is not HttpOnly and SameSite=Strict: ' + JSON.stringify(cookies));
  equal(await page.evaluate(() => document.cookie), '', 'the cookie is readable to scripts');
  state = await page.context().storageState();
  clean(page);
  await page.context().close();
  const again = await open(browser, { at: '/#code=' + process.env.CODE });
  await again.waitForSelector('#token');
  holds((await again.textContent('form')).includes('the code is not valid'), 'a code that was used is not refused in words');
  await again.context().close();
});

await test('a token signs in, a wrong one does not', async () => {
  const page = await open(browser, { at: '/' });
  await page.waitForSelector('#token');
  await shot(page, 'sign-in-light-1440');
  equal(await accessible(page), [], 'axe');
  clean(page);
  await page.fill('#token', 'ot_wrong');
  await page.click('button:text("Sign in")');
  await page.waitForSelector('text=the token is not valid');
  page.wrong.length = 0; // the browser itself writes a refusal to the console
  await page.fill('#token', process.env.OPENTAP_TOKEN);
  await page.click('button:text("Sign in")');
  await page.waitForSelector('h1:text("Overview")');
  await page.click('[aria-label="Sign out"]');
  await page.waitForSelector('#token');
  clean(page);
  await page.context().close();
});

await test('the overview shows what passes', async () => {
  const page = await open(browser, { at: '/', state });
  await page.waitForSelector('text=tap0');
  await eventually('a rate at tap0', async () => /b\/s/.test(await page.locator('.line', { hasText: 'tap0' }).first().innerText()));
  clean(page);
  await page.context().close();
});

await test('a capture is started, watched and downloaded', async () => {
  const page = await open(browser, { at: '/', state });
  await page.waitForSelector('h1:text("Overview")');
  await page.keyboard.press('n');
  await page.waitForSelector('h1:text("New capture")');
  await page.getByLabel('Filter').fill('udp prt 53');
  await eventually('the filter is refused with its place', async () => (await page.locator('pre.where').count()) === 1);
  page.wrong.length = 0; // the browser itself writes a refusal to the console
  await page.getByLabel('Filter').fill('udp port 53');
  await page.waitForSelector('text=Takes ');
  await page.click('button:text-is("10s")');
  await page.fill('#dur', '3s');
  await page.fill('#id', hostile);
  holds((await page.locator('code', { hasText: 'opentap capture pcap' }).innerText()).includes(`-f 'udp port 53'`), 'no command line to copy');
  holds(!(await page.content()).includes('ot_'), 'a token is in the page');
  equal(await accessible(page), [], 'axe');
  await page.click('button:text-is("Start")');
  await page.waitForSelector('.badge:text("running"), .badge:text("done")');
  await page.waitForSelector('.badge:text("done")');
  const c = (await api('GET', '/v1/captures')).captures.find((x) => x.id === hostile);
  holds(c, 'the capture has another name');
  holds(c.status.ledger.captured > 0, 'nothing was captured: the traffic does not arrive');
  await eventually('the page shows the ledger', async () => (await page.locator('.ledger tr.sum').innerText()).replace(/\D/g, '').startsWith(String(c.status.ledger.seen)));
  const waiting = page.waitForEvent('download');
  await page.click('a:text("pcapng")');
  const download = await waiting;
  const got = fs.readFileSync(await download.path());
  const want = await bytes('/v1/captures/' + encodeURIComponent(hostile) + '/data?format=pcapng');
  holds(got.length > 500 && got.equals(want), `the download has ${got.length} octets, the interface gives ${want.length}`);
  equal(await accessible(page), [], 'axe');
  clean(page);
  await page.context().close();
});

await test('packets are browsed, decoded and followed', async () => {
  const mine = await api('POST', '/v1/captures', { id: 'browsed', kind: 'pcap', points: ['tap0'], duration: '3s' });
  await eventually('the capture is done', async () => (await api('GET', '/v1/captures/browsed')).status.state === 'done');
  const seen = (await api('GET', '/v1/captures/browsed')).status.ledger.captured;
  const page = await open(browser, { at: '/#/captures/browsed', state });
  await page.click('a:text-is("Packets")');
  await page.waitForSelector('.rows [role=option]');
  await eventually('as many packets as the ledger says', async () => (await page.locator('.head .sub').innerText()).replace(/\D/g, '') === String(seen));
  await page.keyboard.press('/');
  await page.keyboard.type('tcp port 80');
  await page.waitForSelector('text=Takes ');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.rows [role=option]:has-text("HTTP")');
  await page.click('.rows [role=option] >> nth=0');
  await page.waitForSelector('.tree b:text("HTTP")');
  holds((await page.locator('.tree').innerText()).includes('GET /<img src=x onerror=alert(1)> HTTP/1.1'), 'the hostile request is not shown as it is');
  equal(await page.locator('main img').count(), 0, 'images in the page');
  await page.locator('.tree .f', { hasText: 'Destination port' }).first().click();
  equal(await page.locator('.hx i.on').allInnerTexts(), ['00', '50'], 'the octets of the field that was chosen');
  await page.focus('.scroll');
  await page.keyboard.press('End');
  await eventually('the last packet is chosen', async () => (await page.locator('.rows [aria-selected=true]').count()) === 1);
  await page.click('button:text("Follow the conversation")');
  await eventually('the filter is the conversation', async () => (await page.getByLabel('Filter').inputValue()).match(/tcp port \d+ and port 80/));
  const link = page.url();
  await page.waitForSelector('.rows [role=option]');
  const again = await open(browser, { at: link.slice(link.indexOf('/#')), state });
  await again.waitForSelector('.rows [role=option]:has-text("HTTP")');
  equal(await again.getByLabel('Filter').inputValue(), await page.getByLabel('Filter').inputValue(), 'the filter of a shared link');
  clean(again);
  clean(page);
  holds(mine.uid, 'no uid');
  await again.context().close();
  await page.context().close();
});

await test('flows are ranked and lead to their packets', async () => {
  await api('POST', '/v1/captures', { id: 'beside', kind: 'pcap', points: ['tap0'], duration: '6s' });
  await api('POST', '/v1/captures', { id: 'ranked', kind: 'netflow', points: ['tap0'], duration: '3s' });
  await eventually('the capture is done', async () => (await api('GET', '/v1/captures/ranked')).status.state === 'done');
  const page = await open(browser, { at: '/#/captures/ranked/flows', state });
  await page.waitForSelector('table tbody tr');
  await page.click('button:text-is("Services")');
  await page.waitForSelector('td:text-is("80")');
  await page.locator('tr', { has: page.locator('td:text-is("80")') }).first().locator('a:text-is("Packets")').click();
  await page.waitForSelector('.rows [role=option]');
  holds((await page.getByLabel('Filter').inputValue()).includes('port 80'), 'the packets are not those of the flow');
  clean(page);
  await page.context().close();
});

await test('a tap is tried, made, and copies', async () => {
  const page = await open(browser, { at: '/#/taps', state });
  await page.click('button:has-text("Make a service")');
  await page.fill('#tn', 'analyser');
  const tool = await page.locator('#tp option', { hasText: 'tool0' }).getAttribute('value');
  await page.selectOption('#tp', tool);
  await page.click('button:text-is("Make it")');
  await page.waitForSelector('[aria-label="Service analyser"]');
  await page.click('button.primary:has-text("Flow")');
  await page.fill('#tn', 'dns');
  await page.selectOption('#tp', tool.replace('tool0', 'tap0'));
  await page.getByLabel('Filter').fill('udp port 53');
  await page.waitForSelector('text=Takes ');
  await page.click('button:has-text("What would it mean?")');
  await page.waitForSelector('text=packets/s pass now');
  await page.click('button:text-is("Make it")');
  await page.waitForSelector('.src .badge:text("active")');
  await eventually('copies are counted', async () => (await api('GET', '/v1/taps')).flows[0].counts.mirrored > 0);
  await page.click('.src');
  await page.waitForSelector('dt:text("Copied")');
  equal(await accessible(page), [], 'axe');
  clean(page);
  await page.context().close();
});

await test('who did what is shown, and its chain proven', async () => {
  const page = await open(browser, { at: '/#/operation/audit', state });
  await page.waitForSelector('td:text("tap.flow.create")');
  await page.click('button:text("Prove the chain")');
  await page.waitForSelector('text=Every line is as it was written');
  clean(page);
  await page.context().close();
});

await test('a connection that is lost is shown and mends itself', async () => {
  const page = await open(browser, { at: '/', state });
  await page.waitForSelector('nav .conn.open');
  await page.context().setOffline(true);
  await page.evaluate(() => dispatchEvent(new Event('offline'))); // which the browser's emulation tells some pages only
  await page.waitForSelector('text=The connection to the server is lost', { timeout: 60_000 });
  await page.context().setOffline(false);
  await page.evaluate(() => dispatchEvent(new Event('online')));
  await page.waitForSelector('nav .conn.open');
  page.wrong = page.wrong.filter((w) => !w.includes('ERR_INTERNET_DISCONNECTED')); // the browser's own words about being offline
  clean(page);
  await page.context().close();
});

await test('the back button and links work', async () => {
  const page = await open(browser, { at: '/#/captures', state });
  await page.waitForSelector('h1:text("Captures")');
  await page.click('a.line >> nth=0');
  await page.waitForSelector('h2:text("Facts")');
  await page.goBack();
  await page.waitForSelector('h1:text("Captures")');
  await page.keyboard.press('g');
  await page.keyboard.press('o');
  await page.waitForSelector('h1:text("Overview")');
  await page.keyboard.press('?');
  await page.waitForSelector('dialog[open]');
  await page.keyboard.press('Escape');
  clean(page);
  await page.context().close();
});

// Every view as a picture, in both themes and two widths; each is held against axe.
const views = JSON.parse(process.env.VIEWS ?? '[]').concat([
  ['overview', '#/'],
  ['captures', '#/captures'],
  ['new-capture', '#/captures/new'],
  ['capture', '#/captures/' + encodeURIComponent(hostile)],
  ['packets', '#/captures/browsed/packets?n=5'],
  ['flows', '#/captures/ranked/flows'],
  ['time', '#/time?capture=beside%2Cranked'],
  ['taps', '#/taps'],
  ['triggers', '#/triggers'],
  ['nodes', '#/operation/nodes'],
  ['health', '#/operation/health'],
  ['tokens', '#/operation/tokens'],
  ['audit', '#/operation/audit'],
  ['projects', '#/operation/projects'],
]);
for (const [theme, width, height] of [['light', 1440, 900], ['dark', 1440, 900], ['light', 400, 860], ['dark', 400, 860]]) {
  await test(`every view, ${theme}, ${width} wide`, async () => {
    const page = await open(browser, { at: '/', state, theme, width, height });
    await page.waitForSelector('h1:text("Overview")');
    await eventually('something is drawn', async () => /b\/s/.test(await page.locator('.line', { hasText: 'tap0' }).first().innerText()));
    for (const [name, hash] of views) {
      await page.goto(process.env.OPENTAP_URL + '/' + hash);
      await page.waitForSelector('main h1');
      await page.waitForLoadState('networkidle').catch(() => {});
      await page.waitForFunction(() => !document.querySelector('[aria-busy="true"]'));
      await shot(page, `${name}-${theme}-${width}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      holds(wide <= 0, `${name}: ${wide} pixels too wide`);
      equal(await accessible(page), [], `axe, ${name}`);
    }
    clean(page);
    await page.context().close();
  });
}

await test('a token that is revoked while the page is open', async () => {
  const made = await api('POST', '/v1/tokens', { name: 'guest', role: 'viewer' });
  const page = await open(browser, { at: '/' });
  await page.fill('#token', made.token);
  await page.click('button:text("Sign in")');
  await page.waitForSelector('text=viewer');
  equal(await page.locator('a:text("New capture")').count(), 0, 'a viewer is offered what it may not do');
  await api('DELETE', '/v1/tokens/guest');
  await page.waitForSelector('text=You were signed out');
  clean(page);
  await page.context().close();
});

await browser.close();
done();
