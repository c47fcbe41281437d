// The dashboard in a real browser, against a real daemon. Started by test/e2e (TestNetnsDashboard), which makes traffic.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { accessible, api, bytes, done, equal, eventually, fits, holds, launch, open, patience, settled, sh, shot, test } from './browser.mjs';

const browser = await launch();
let state; // of a browser that is signed in

const clean = (page) => equal(page.wrong, [], 'what went wrong in the page');
const hostile = '<img src=x onerror=alert(1)>"\'';
const looks = [['light', 1440, 900], ['dark', 1440, 900], ['light', 400, 860], ['dark', 400, 860]];

/** each runs something in every look, side by side. */
const each = (fn, all = looks) => Promise.all(all.map(([theme, width, height]) => fn({ theme, width, height }, `${theme}-${width}`)));

/** view keeps a picture of what the page shows, and holds it against its own width, and against axe. */
async function view(page, name) {
  await settled(page);
  await shot(page, name);
  await fits(page, name);
  // Each theme is looked at once: narrow in the dark, and wide in the light.
  if (/light-1440|dark-400/.test(name)) equal(await accessible(page), [], `axe, ${name}`);
}

/** A host looks at itself for one at a time. */
let turn = Promise.resolve();
const alone = (fn) => (turn = turn.catch(() => {}).then(fn));

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

await test('who comes first is shown the way', () =>
  each(async (look, name) => {
    const page = await open(browser, { at: '/', ...look });
    await page.waitForSelector('a:text("Sign in with Example & Sons")');
    await view(page, 'sign-in-' + name);
    clean(page);
    await page.context().close();
    const first = await open(browser, { at: '/', state, ...look });
    await first.waitForSelector('text=Start the first one');
    await view(first, 'overview-empty-' + name);
    for (const [hash, words] of [['captures', 'Start the first capture'], ['time', 'Nothing to lay side by side yet'], ['taps', 'No taps yet'], ['triggers', 'No rules yet']]) {
      await first.goto(process.env.OPENTAP_URL + '/#/' + hash);
      await first.waitForSelector('text=' + words);
      await view(first, `${hash}-empty-${name}`);
    }
    clean(first);
    await first.context().close();
  }, [looks[0], looks[3]]),
);

await test('a provider of identities signs in', async () => {
  const { authorization_endpoint: there } = JSON.parse(sh(`curl -sS "$IDP/.well-known/openid-configuration"`));
  const page = await open(browser, { at: '/', elsewhere: new URL(there).origin });
  await page.click('a:text("Sign in with Example & Sons")');
  await page.waitForSelector('input[name=user]');
  holds(page.url().startsWith(there), 'not at the provider: ' + page.url());
  await page.fill('input[name=user]', 'alice');
  await page.fill('input[name=password]', 'secret');
  await page.evaluate(() => document.forms[0].submit());
  await page.waitForSelector('h1:text("Overview")');
  await page.waitForSelector('.who:has-text("alice"):has-text("operator")');
  await page.click('[aria-label="Sign out"]');
  await page.waitForSelector('#token');
  equal((await page.context().cookies()).filter((c) => c.domain === '127.0.0.1' && c.value && c.path !== '/authorize').length, 0, 'cookies after signing out');
  clean(page);
  await page.context().close();
});

await test('a token signs in, a wrong one does not', async () => {
  const page = await open(browser, { at: '/' });
  await page.waitForSelector('#token');
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
  await page.keyboard.press('/');
  await page.keyboard.type('tool1');
  const line = page.locator('.line', { hasText: 'tool1' });
  holds((await line.innerText()).includes('<script>alert(1)</script>"\'>'), 'a hostile name is not shown as it is: ' + (await line.innerText()));
  holds((await line.innerText()).includes('⟨202e⟩') || (await line.locator('b').evaluate((b) => b.scrollWidth > b.clientWidth)), 'what turns letters round is not spelt out');
  holds(!/[\u0000-\u0009\u000b-\u001f\u202e]/.test(await page.locator('main').innerText()), 'control characters are in the page');
  await fits(page, 'the overview with a hostile name');
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
  await page.getByLabel('Filter').fill('udp port 53');
  await page.waitForSelector('text=Takes ');
  await page.click('button:text-is("10s")');
  await page.fill('#dur', '3s');
  await page.fill('#id', hostile);
  const cli = await page.locator('code', { hasText: 'opentap capture pcap' }).innerText();
  const curl = await page.locator('code', { hasText: 'curl -sS' }).innerText();
  holds(cli.includes(`-f 'udp port 53'`), 'no command line to copy');
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
  // The lines to copy do what the page did.
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'lines-'));
  try {
    for (const line of await page.locator('section:has(h2:text("By hand")) code').allInnerTexts()) {
      if (/delete|-X DELETE/.test(line)) continue;
      const said = sh(line, dir);
      if (!/retrieve| -o /.test(line)) {
        holds(said.toString().includes('onerror'), `${line}: ${said}`);
        continue;
      }
      holds(fs.readFileSync(path.join(dir, 'opentap.pcapng')).equals(want), 'not the same octets: ' + line);
      fs.rmSync(path.join(dir, 'opentap.pcapng'));
    }
    const before = (await api('GET', '/v1/captures')).captures.length;
    sh(cli.replace(/ --id '.*'(?= --detach)/, " --id 'by hand'"), dir);
    sh(curl.replace(/"id":".*?[^\\]"(?=})/, '"id":"by curl"'), dir);
    const after = (await api('GET', '/v1/captures')).captures;
    equal([after.length, after.find((x) => x.id === 'by hand')?.query.filter, after.find((x) => x.id === 'by curl')?.query.filter], [before + 2, 'udp port 53', 'udp port 53'], 'captures that were begun by hand');
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
  await page.click('button:text("Delete")');
  await view(page, 'delete-light-1440');
  await page.click('button:text("Keep it")');
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
  // The longest and the most hostile of all.
  for (const [filter, words] of [['greater 60000', '64 0'], ['udp portrange 5000-5099 and greater 200', 'long-label-of-sixty-three'], ['udp portrange 5000-5099 and less 74', '\\x1b[2J']]) {
    await page.getByLabel('Filter').fill(filter);
    await page.waitForSelector('text=Takes ');
    await page.keyboard.press('Enter');
    await page.waitForSelector('text=Choose a packet');
    await page.waitForSelector('.rows [role=option]');
    await page.click('.rows [role=option] >> nth=0');
    await page.waitForSelector(`.detail >> text=${words}`).catch(async (e) => { throw new Error(`${filter}: no ${words} in ${(await page.locator('.detail').innerText()).slice(0, 2000)}: ${e.message}`); });
    holds(!/[\u0000-\u0009\u000b-\u001f\u202e]/.test(await page.locator('main').innerText()), 'control characters are in the page');
    await fits(page, filter);
    if (filter.startsWith('greater')) {
      await page.locator('.hex').evaluate((el) => (el.scrollTop = el.scrollHeight));
      await page.waitForSelector('.hr:has-text("fa50")');
      holds((await page.locator('.hex *').count()) < 3000, 'all octets of the longest packet are in the page at one time');
    }
  }
  await page.getByLabel('Filter').fill('tcp port 80');
  await page.waitForSelector('text=Takes ');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.rows [role=option]:has-text("HTTP")');
  await page.fill('[aria-label="Jump to a time"]', new Date((await api('GET', '/v1/captures/browsed/packets?limit=1')).last).toISOString());
  await page.click('button:text("Jump")');
  await eventually('the last second is chosen', async () => (await page.locator('.rows [aria-selected=true]').count()) === 1);
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
  await api('POST', '/v1/captures', { id: 'counted', kind: 'ethernet', points: ['tap0'], duration: '4s' });
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
  await eventually('and at the service, which has the same', async () => /[1-9][^c]* copies/.test(await page.locator('.sink').innerText()));
  await page.click('.src');
  await page.waitForSelector('dt:text("Copied")');
  await page.click('button:text-is("Test it")');
  await page.waitForSelector('.trial .badge');
  holds((await page.locator('.trial').innerText()).startsWith('passed'), await page.locator('.trial').innerText());
  await page.click('summary:text("Test by hand")');
  holds(sh(await page.locator('code', { hasText: 'opentap tap test' }).innerText()).toString().length > 0, 'the line does nothing');
  equal(await accessible(page), [], 'axe');
  clean(page);
  await page.context().close();
});

if (process.env.FABRIC)
  await test('what is meddled with in the fabric is shown and put back', async () => {
    const page = await open(browser, { at: '/#/fabric', state });
    await page.waitForSelector('.topo text:text-is("s1")');
    equal(await page.locator('.topo line').count(), 4, 'cables');
    await page.click('button:has-text("mirror-h1")');
    await page.waitForSelector('.hop:has-text("s1")');
    await page.click('button:text("Send marked frames along it")');
    await page.waitForSelector('.probes .badge:text("delivered")');
    execFileSync('ovs-ofctl', ['-O', 'OpenFlow13', 'del-flows', 's1', 'in_port=1']);
    await page.click('button:text("Compare with the switches")');
    // What was taken out is found by this comparison, or by the one that the server makes by itself, which puts it back.
    await page.waitForSelector('section:has(h2:text("Drift")) tr:has-text("repaired")');
    await page.waitForSelector('section:has(h2:text("Drift")) tr:has-text("mirror-h1 at s1/1")');
    await eventually('the rule is there again', () => execFileSync('ovs-ofctl', ['-O', 'OpenFlow13', 'dump-flows', 's1', 'in_port=1']).toString().includes('in_port=1'));
    execFileSync('ip', ['link', 'set', 's1-eth7', 'down']);
    await page.waitForSelector('.topo line.down', { state: 'attached' });
    await shot(page, 'fabric-cable-cut-light-1440');
    execFileSync('ip', ['link', 'set', 's1-eth7', 'up']);
    await eventually('the cable is found again', async () => (await api('GET', '/v1/fabric')).links.filter((l) => l.up).length === 4);
    clean(page);
    await page.context().close();
  });

await test('a rule shows what is over its threshold, and what it began', async () => {
  await api('PUT', '/v1/detect/rules/busy', {
    flow: { input: 'packets', points: ['tap0'], keys: ['src', 'dst', 'dport'], filter: 'udp', value: 'packets', window: '1s' }, threshold: { above: '10pps', clear: '1pps', hold: '500ms' },
    then: { capture: { points: ['tap0'], filter: 'host {src} and udp port {dport}', duration: '1m' }, max_active: 1, ttl: '1m' },
  });
  const page = await open(browser, { at: '/#/triggers', state });
  await page.waitForSelector('.gauge .over');
  await page.waitForSelector('.lane .ev');
  await page.click('a:text-is("a capture") >> nth=0');
  await page.waitForSelector('h2:text("What became of every packet")');
  await page.goto(process.env.OPENTAP_URL + '/#/');
  await page.waitForSelector('.alarms a:has-text("busy")');
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
  await view(page, 'lost-light-1440');
  await page.context().setOffline(false);
  await page.evaluate(() => dispatchEvent(new Event('online')));
  await page.waitForSelector('nav .conn.open');
  page.wrong = page.wrong.filter((w) => !w.includes('ERR_INTERNET_DISCONNECTED')); // the browser's own words about being offline
  clean(page);
  await page.context().close();
});

await test('a server that falls silent is shown, and mends itself', async () => {
  const page = await open(browser, { at: '/', state });
  await page.clock.install();
  await page.goto(process.env.OPENTAP_URL + '/');
  await page.waitForSelector('nav .conn.open');
  process.kill(Number(process.env.DAEMON), 'SIGSTOP'); // no word, and the connection stands
  try {
    await page.clock.fastForward(40_000);
    await page.waitForSelector('text=The connection to the server is lost');
  } finally {
    process.kill(Number(process.env.DAEMON), 'SIGCONT');
  }
  await page.waitForSelector('nav .conn.open');
  equal(await page.locator('text=The connection to the server is lost').count(), 0, 'banners');
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
  await view(page, 'help-light-1440');
  await page.keyboard.press('Escape');
  clean(page);
  await page.context().close();
});

// Every view as a picture, in both themes and two widths, and once more where there is a lot of room.
const views = [
  ['overview', '#/'],
  ['captures', '#/captures'],
  ['new-capture', '#/captures/new'],
  ['capture', '#/captures/' + encodeURIComponent(hostile)],
  ['packets', '#/captures/browsed/packets?n=5'],
  ['flows', '#/captures/ranked/flows'],
  ['time', '#/time?capture=beside%2Cranked%2Ccounted'],
  ['taps', '#/taps', (page) => page.click('.src')],
  ...(process.env.FABRIC ? [['fabric', '#/fabric', async (page) => { await page.click('button:has-text("mirror-h1")'); await page.waitForSelector('.hop'); await page.evaluate(() => scrollTo(0, 0)); }]] : []),
  ['triggers', '#/triggers'],
  ['nodes', '#/operation/nodes'],
  ['health', '#/operation/health'],
  ['tokens', '#/operation/tokens'],
  ['audit', '#/operation/audit'],
  ['projects', '#/operation/projects'],
];
const roomy = new Set(['overview', 'captures', 'packets', 'time', 'fabric']); // where much room changes much
await test('every view in light and dark, narrow and wide', () =>
  each(
    async (look, theme) => {
      const page = await open(browser, { at: '/', state, ...look });
      await page.waitForSelector('h1:text("Overview")');
      await eventually('something is drawn', async () => /b\/s/.test(await page.locator('.line', { hasText: 'tap0' }).first().innerText()));
      for (const [name, hash, more] of views) {
        if (look.width > 2000 && !roomy.has(name)) continue;
        const show = async () => {
          await page.goto(process.env.OPENTAP_URL + '/' + hash);
          await page.waitForSelector('main h1');
          await settled(page);
          await more?.(page);
          await view(page, `${name}-${theme}`);
        };
        await (name === 'health' ? alone(show) : show());
      }
      if (look.width < 720) {
        await page.click('[aria-label="Menu"]');
        await view(page, `menu-${theme}`);
      }
      clean(page);
      await page.context().close();
    },
    [...looks, ['light', 3840, 2160]],
  ),
);

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
