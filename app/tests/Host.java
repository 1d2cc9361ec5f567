import java.nio.file.Path;
import org.proofmark.Core;

/** A host on the Java virtual machine: talks to the real model, and does what must not work. */
public final class Host {
    public static void main(String[] arguments) {
        String folder = arguments[0];
        check(Core.abiVersion() == Core.ABI_VERSION, "class and library are of one version");
        expect(IllegalArgumentException.class, () -> new Core("{\"cache\": 7}"));
        String config = "{\"cache\": \"" + folder + "/cache\", \"data\": \"" + folder + "/data\"}";
        Core core = new Core(config);
        until(core, "ready");
        expect(IllegalArgumentException.class, () -> core.send("{\"command\": \"fly\"}"));
        core.send("{\"command\": \"say\", \"text\": \"hello \uD83D\uDE42\"}");
        check(until(core, "said").contains("hello \uD83D\uDE42"), "an emoji comes through whole");
        check(until(core, "reply").contains("\"finish\":\"stop\""), "the reply ended by itself");
        core.stop();
        check(core.next(0) == null, "nothing more happened");
        check(Core.provenance().contains("\"sha256\""), "the model is named");
        closesWhileAnotherWaits(core);
        core.close();
        expect(IllegalStateException.class, () -> core.send("{\"command\": \"list\"}"));
        check(Path.of(folder, "data", "conversations.sqlite").toFile().exists(), "it is on disk");
        System.out.println("ok");
    }

    /** What waits for an event keeps neither sending nor closing waiting, and ends when the core does. */
    private static void closesWhileAnotherWaits(Core core) {
        Thread waiting = new Thread(() -> {
            try {
                while (core.next(Integer.MAX_VALUE) != null) {
                    // One event more.
                }
            } catch (IllegalStateException closed) {
                // It began after the closing.
            }
        });
        waiting.start();
        core.send("{\"command\": \"list\"}");
        core.stop();
        core.close();
        try {
            waiting.join();
        } catch (InterruptedException exception) {
            throw new AssertionError(exception);
        }
    }

    private static String until(Core core, String kind) {
        while (true) {
            String event = core.next(60_000);
            check(event != null, "the core ended before " + kind);
            if (event.contains("\"event\":\"" + kind + "\"")) {
                return event;
            }
        }
    }

    private static void expect(Class<? extends Exception> kind, Runnable act) {
        try {
            act.run();
        } catch (RuntimeException exception) {
            check(kind.isInstance(exception), exception + ", expected " + kind);
            return;
        }
        check(false, "nothing was thrown, expected " + kind);
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
