package io.github.spotbridge.client;

import io.github.spotbridge.v1.Lost;
import io.github.spotbridge.v1.Refused;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/** Keeps what was noticed. */
final class Notes implements Notices {
    final BlockingQueue<String> lines = new LinkedBlockingQueue<>();
    final BlockingQueue<Lost> losses = new LinkedBlockingQueue<>();
    final BlockingQueue<Refused> refusals = new LinkedBlockingQueue<>();

    @Override
    public void notice(String line) {
        lines.add(line);
    }

    @Override
    public void lost(Lost lost) {
        losses.add(lost);
        Notices.super.lost(lost);
    }

    @Override
    public void refused(Refused refused) {
        refusals.add(refused);
        Notices.super.refused(refused);
    }

    /** Waits for a line with this text. */
    String awaitLine(String text) throws InterruptedException {
        String line = FakeBridge.take(lines, "a notice with \"" + text + "\"");
        while (!line.contains(text)) {
            line = FakeBridge.take(lines, "a notice with \"" + text + "\"");
        }
        return line;
    }
}
