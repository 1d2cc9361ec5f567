// An empty project: whichever Gradle is installed makes the wrapper of the pinned one in it, without reading the app's build.
rootProject.name = "wrapper"
