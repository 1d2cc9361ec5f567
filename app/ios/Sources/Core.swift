import Foundation

/// The chat core on its own threads; what it says arrives on the main actor.
///
/// The core is told where the model lies in the app's bundle and proves it before it is mapped.
@MainActor
final class Core: ObservableObject {
    struct Line: Identifiable {
        let id = UUID()
        let mine: Bool
        var text: String
    }

    enum State: Equatable {
        case starting
        case installing(Double)
        case refused(String)
        case ready
        case replying
    }

    @Published private(set) var state = State.starting
    @Published private(set) var lines: [Line] = []
    @Published private(set) var card = ""
    @Published private(set) var notice: String?
    private let handle: OpaquePointer?

    init() {
        var error: UnsafeMutablePointer<CChar>?
        handle = proofmark_start(Core.config(), &error)
        if let text = Core.take(error) { state = .refused(text) }
        guard let handle else { return }
        let listener = Thread { [weak self] in Core.listen(handle, self) }
        listener.name = "proofmark events"
        listener.start()
        card = Core.take(proofmark_provenance()) ?? ""
    }

    func say(_ text: String) { send(["command": "say", "text": text]) }
    func regenerate() { send(["command": "regenerate"]) }
    func pause() { send(["command": "pause"]) }
    func stop() { if let handle { proofmark_stop(handle) } }

    /// The core keeps conversations in Application Support and what it can make again in Caches, which is not backed up.
    private static func config() -> String {
        let files = FileManager.default
        let folder = { (kind: FileManager.SearchPathDirectory) in
            files.urls(for: kind, in: .userDomainMask)[0].appendingPathComponent("proofmark").path
        }
        var config = ["cache": folder(.cachesDirectory), "data": folder(.applicationSupportDirectory)]
        if let model = Bundle.main.urls(forResourcesWithExtension: "pte", subdirectory: "Model")?.first
            ?? Bundle.main.urls(forResourcesWithExtension: "pte", subdirectory: nil)?.first {
            config["model_path"] = model.path
        }
        return json(config)
    }

    private func send(_ command: [String: String]) {
        guard let handle else { return }
        var error: UnsafeMutablePointer<CChar>?
        let code = proofmark_send(handle, Core.json(command), &error)
        let reason = Core.take(error)
        if code != PROOFMARK_OK { notice = reason ?? "the core took no command" }
    }

    /// Ends with the process: the core outlives every view.
    private nonisolated static func listen(_ handle: OpaquePointer, _ core: Core?) {
        while true {
            guard let text = take(proofmark_next_event(handle, 1000)),
                  let event = try? JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
            else { continue }
            Task { @MainActor [weak core] in core?.on(event) }
        }
    }

    private func on(_ event: [String: Any]) {
        switch event["event"] as? String {
        case "installing":
            let number = { (name: String) in (event[name] as? NSNumber)?.doubleValue ?? 0 }
            state = .installing(number("done_bytes") / max(number("total_bytes"), 1))
        case "refused":
            state = .refused([event["reason"], event["hint"]].compactMap { $0 as? String }.joined(separator: "\n\n"))
        case "ready":
            state = .ready
            notice = event["warning"] as? String
        case "said":
            if let text = event["text"] as? String { lines.append(Line(mine: true, text: text)) }
            lines.append(Line(mine: false, text: ""))
            state = .replying
        case "piece":
            if let text = event["text"] as? String, !lines.isEmpty { lines[lines.count - 1].text += text }
        case "reply":
            state = .ready
        case "error":
            notice = event["message"] as? String
            state = .ready
        default:
            break
        }
    }

    private nonisolated static func json(_ object: [String: String]) -> String {
        (try? JSONSerialization.data(withJSONObject: object)).map { String(decoding: $0, as: UTF8.self) } ?? "{}"
    }

    /// A string of the core, which is freed.
    private nonisolated static func take(_ text: UnsafeMutablePointer<CChar>?) -> String? {
        guard let text else { return nil }
        defer { proofmark_free_string(text) }
        return String(cString: text)
    }
}
