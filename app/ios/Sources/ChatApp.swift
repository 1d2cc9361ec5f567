import SwiftUI

@main
struct ChatApp: App {
    @StateObject private var core = Core()
    @Environment(\.scenePhase) private var phase

    var body: some Scene {
        WindowGroup {
            ChatView(core: core)
                .onChange(of: phase) { _, now in if now == .background { core.pause() } }
                .onReceive(NotificationCenter.default.publisher(
                    for: UIApplication.didReceiveMemoryWarningNotification)) { _ in core.pause() }
        }
    }
}

struct ChatView: View {
    @ObservedObject var core: Core
    @State private var draft = ""
    @State private var showsCard = false

    var body: some View {
        NavigationStack {
            VStack(spacing: 0) {
                content
                if let notice = core.notice { Text(notice).font(.footnote).foregroundStyle(.secondary) }
            }
            .navigationTitle("Proofmark")
            .navigationBarTitleDisplayMode(.inline)
            .toolbar { Button("Model") { showsCard = true } }
            .sheet(isPresented: $showsCard) {
                ScrollView { Text(core.card).font(.footnote.monospaced()).textSelection(.enabled).padding() }
            }
        }
    }

    @ViewBuilder private var content: some View {
        switch core.state {
        case .starting:
            ProgressView().frame(maxHeight: .infinity)
        case .installing(let share):
            ProgressView("Proving the model", value: share).padding().frame(maxHeight: .infinity)
        case .refused(let reason):
            ScrollView { Label(reason, systemImage: "exclamationmark.shield").padding() }
        case .ready, .replying:
            transcript
            composer
        }
    }

    private var transcript: some View {
        ScrollViewReader { reader in
            ScrollView {
                LazyVStack(spacing: 8) {
                    ForEach(core.lines) { line in
                        Text(line.text)
                            .padding(10)
                            .background(line.mine ? Color.accentColor.opacity(0.2) : Color.secondary.opacity(0.15))
                            .clipShape(RoundedRectangle(cornerRadius: 14))
                            .frame(maxWidth: .infinity, alignment: line.mine ? .trailing : .leading)
                            .textSelection(.enabled)
                            .accessibilityLabel((line.mine ? "You: " : "Reply: ") + line.text)
                    }
                }
                .padding()
            }
            .onChange(of: core.lines.last?.text) { _, _ in reader.scrollTo(core.lines.last?.id, anchor: .bottom) }
        }
    }

    private var composer: some View {
        HStack {
            TextField("Message", text: $draft, axis: .vertical).textFieldStyle(.roundedBorder).onSubmit(send)
            if core.state == .replying {
                Button("Stop", systemImage: "stop.fill") { core.stop() }
            } else {
                Button("Again", systemImage: "arrow.clockwise") { core.regenerate() }.disabled(core.lines.isEmpty)
                Button("Send", systemImage: "arrow.up.circle.fill", action: send)
                    .disabled(draft.trimmingCharacters(in: .whitespacesAndNewlines).isEmpty)
            }
        }
        .labelStyle(.iconOnly)
        .padding()
    }

    private func send() {
        core.say(draft)
        draft = ""
    }
}
